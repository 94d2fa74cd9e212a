"""What the project promises, measured. Outside the wheel: these need a checkout."""
