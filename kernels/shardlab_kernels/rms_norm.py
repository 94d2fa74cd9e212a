"""RMSNorm in one pass over memory. Zhang and Sennrich 2019, arXiv 1910.07467."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

MAX_D = 65536  # one program holds one row: longer rows would spill


def reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x[...,D], weight[D] -> x / sqrt(mean(x^2) + eps) * weight, the mean taken in fp32.

    Written out in torch it moves, in units of x.nbytes with x in fp32: square 2, mean 1, product 2, weight 2
    = 7.
    """
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def moved_bytes(x: torch.Tensor, weight: torch.Tensor) -> int:
    """What the kernel moves: read x, write the result, read the weight once (later rows find it in cache)."""
    return 2 * x.nbytes + weight.nbytes


@triton.jit
def _rms_norm_kernel(x_ptr, weight_ptr, out_ptr, D, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    x = tl.load(x_ptr + row * D + columns, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / D + eps)
    # Rounded to x's dtype before the weight, as the reference does. Casts are explicit: the interpreter
    # stores garbage for an implicit cast to bf16.
    normed = (x * scale).to(out_ptr.dtype.element_ty).to(tl.float32) * weight.to(tl.float32)
    tl.store(out_ptr + row * D + columns, normed.to(out_ptr.dtype.element_ty), mask=inside)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x[...,D], weight[D] -> [...,D], in x's dtype. Raises ValueError for shapes, dtypes or devices that differ."""
    if x.dim() < 1 or weight.dim() != 1 or x.shape[-1] != weight.shape[0]:
        raise ValueError(f"x{tuple(x.shape)} and weight{tuple(weight.shape)}: x[...,D] and weight[D] are needed")
    if x.dtype != weight.dtype or not x.dtype.is_floating_point:
        raise ValueError(f"x is {x.dtype}, weight is {weight.dtype}: one floating-point dtype is needed")
    if x.device != weight.device:
        raise ValueError(f"x is on {x.device}, weight on {weight.device}: one device is needed")
    d = x.shape[-1]
    if not 1 <= d <= MAX_D:
        raise ValueError(f"D={d}: a row of 1..{MAX_D} elements is needed")
    x, weight = x.contiguous(), weight.contiguous()
    out = torch.empty_like(x)
    rows = x.numel() // d
    if rows:
        block = triton.next_power_of_2(d)
        launch: Any = _rms_norm_kernel[(rows,)]  # pyright: ignore[reportIndexIssue]
        launch(x, weight, out, d, eps, BLOCK=block, num_warps=min(16, max(1, block // 512)))
    return out
