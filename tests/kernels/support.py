"""What the kernel tests share: where they run, inputs, and how close a kernel must come to an fp64 reference.

Without a GPU the kernels run in Triton's interpreter (tests/conftest.py sets it); with one, the same tests run
compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# FAULTS' parity table: absolute and relative, against fp64 on the same (already rounded) inputs.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}


def draw(*shape: int, dtype: torch.dtype, seed: int, fan_in: int = 1) -> torch.Tensor:
    """randn * fan_in ** -0.5: so that sums over fan_in terms stay near 1, and a tolerance means something."""
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * fan_in**-0.5
    return numbers.to(DEVICE, dtype)


def assert_close(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    """`found`, of a kernel whose inputs were of `dtype`, against `wanted` in fp64. NaN is never close."""
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(found.double(), wanted.double(), atol=tolerance, rtol=tolerance)


@contextmanager
def poison() -> Iterator[None]:
    """Within it torch.empty is full of NaN (integers: of their largest value): what a kernel leaves out shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
