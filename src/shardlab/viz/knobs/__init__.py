"""Figures with sliders and choices, which answer in the rendered page too."""
