"""What every rank runs: a file for each kind of lab, whose functions take the mesh first. Nothing else is here."""
