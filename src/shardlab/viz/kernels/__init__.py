"""How each Triton kernel does its work, and how far from the roof it stays."""
