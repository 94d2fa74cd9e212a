"""Triton kernels, one file each: torch reference, kernel, launcher, bytes moved. They know nothing of ranks."""
