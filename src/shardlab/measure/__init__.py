"""Measuring: timers, socket counters, and records of what was measured. Submodules are imported by name."""
