"""Triton kernels, one file each: torch reference, kernel, launcher, bytes moved. None knows a process group."""
