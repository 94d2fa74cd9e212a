"""How a kernel starts: on a GPU, in Triton's interpreter on a CPU, or not at all, with a reason.

Triton 3.6 and 3.7 compile the kernels; to interpret them, 3.6 needs a numpy below 2.4.

A launcher checks its arguments with the functions of checks.py, makes its output, and calls `launch`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from triton import knobs

# Read once, as @triton.jit does: kernels that are defined under TRITON_INTERPRET=1 are interpreted for good.
INTERPRETED: bool = bool(knobs.runtime.interpret)

# SHARDLAB_AUTOTUNE=first: kernels take the first configuration, so that tests compile one of each and not all.
FIRST_ONLY: bool = INTERPRETED or os.environ.get("SHARDLAB_AUTOTUNE") == "first"
_TUNE_MS: dict[str, Any] = {
    "warmup": 5,
    "rep": 25,
}  # of each configuration: at Triton's own 25 and 100, tuning takes most of a bench

Grid = tuple[int, ...] | Callable[[dict[str, Any]], tuple[int, ...]]

# What runs a kernel. compile_only.py puts a compiler here; nothing else changes it.
_start: Callable[..., Any] | None = None


def can_run(device: torch.device) -> bool:
    """Whether a kernel can work on tensors of this device: CUDA, or a CPU whose kernels are interpreted."""
    return device.type == "cuda" or (device.type == "cpu" and (INTERPRETED or _start is not None))


def check_device(**tensors: torch.Tensor | None) -> torch.device:
    """-> the one device of these tensors. Raises ValueError where they differ, or where no kernel can run."""
    given = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    (first, device), *others = given.items()
    for name, other in others:
        if other != device:
            raise ValueError(f"{first} is on {device}, {name} on {other}: one device is needed")
    if not can_run(device):
        raise ValueError(
            f"{first} is on {device}, and no Triton driver works there: give CUDA tensors, or set TRITON_INTERPRET=1 "
            "before triton is imported to run the kernels on a CPU"
        )
    return device


def launch(kernel: Any, grid: Grid, *args: Any, **meta: Any) -> None:
    """kernel[grid](*args, **meta), on the GPU that holds the tensors."""
    if _start is not None:
        _start(kernel, grid, *args, **meta)
        return
    device = next((arg.device for arg in args if isinstance(arg, torch.Tensor)), None)
    if device is None or device.type != "cuda" or device.index == torch.cuda.current_device():
        kernel[grid](*args, **meta)
    else:  # Triton launches on the current device, whatever the tensors say
        with torch.cuda.device(device):
            kernel[grid](*args, **meta)


def tuned(configs: Sequence[triton.Config], key: Sequence[str]) -> Callable[[Any], Any]:
    """A kernel that tries these configurations once for each value of `key`, and keeps the fastest.

    Put the configuration that is safe everywhere first: the interpreter has no clock and takes that one.
    """
    chosen = list(configs[:1] if FIRST_ONLY else configs)
    return triton.autotune(configs=chosen, key=list(key), do_bench=_do_bench)


def _do_bench(run: Callable[[], Any], quantiles: Sequence[float]) -> Any:
    return triton.testing.do_bench(run, quantiles=quantiles, **_TUNE_MS)


def num_multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU. A CPU stands in with 4, so that tests see work shared out.

    Where kernels are only compiled, it stands in with an H100's: what is compiled is then what runs there.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 4 if _start is None else 132


def cdiv(a: int, b: int) -> int:
    """a / b rounded up, for launchers: triton.cdiv, whose type no checker knows."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least n, for launchers: triton.next_power_of_2, with a type."""
    return 1 << max(0, n - 1).bit_length()
