"""What is measured by running: sweeps of the collectives, the calibration of the cost model, plans side by side.

The drivers (driver, calibrate, plans) run in the notebook; what each rank does for them is in cells, fused_norm, rates.
"""
