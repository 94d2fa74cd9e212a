"""RMSNorm in one pass over memory. Zhang and Sennrich 2019, arXiv 1910.07467."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.checks import check_dtype, sizes, wide
from shardlab_kernels.launch import check_device, launch

MAX_D = 65536  # one program holds one row: longer rows would spill


def reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x[...,D], weight[D] -> x / sqrt(mean(x^2) + eps) * weight, the mean taken in fp32 (fp64 for fp64).

    Written out in torch it moves, in units of x.nbytes with x in fp32: square 2, mean 1, product 2, weight 2
    = 7.
    """
    normed = wide(x)
    normed = normed * torch.rsqrt(normed.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


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
    d = sizes(x=(x, "... D"), weight=(weight, "D"))["D"]
    check_dtype(x=x, weight=weight)
    check_device(x=x, weight=weight)
    if not 1 <= d <= MAX_D:
        raise ValueError(f"D={d}: a row of 1..{MAX_D} elements is needed")
    x, weight = x.contiguous(), weight.contiguous()
    out = torch.empty_like(x)
    rows = x.numel() // d
    if rows:
        block = triton.next_power_of_2(d)
        launch(_rms_norm_kernel, (rows,), x, weight, out, d, eps, BLOCK=block, num_warps=min(16, max(1, block // 512)))
    return out
