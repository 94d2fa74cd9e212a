"""RMSNorm, alone or with the residual's addition before it, in one pass over memory.

Zhang and Sennrich 2019, arXiv 1910.07467. A program holds whole rows in registers: a long one, or several short ones.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.checks import check_dtype, sizes, wide
from shardlab_kernels.launch import cdiv, check_device, launch, next_power_of_2

MAX_D = 65536  # a program holds a whole row; from 32768 in fp32 (65536 in bf16) registers spill: right, but slower
TILE = 2048  # elements that a program takes, where rows are short
PER_THREAD = 16  # elements: two loads of 16 bytes in a half precision


def reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x[...,D], weight[D] -> x / sqrt(mean(x^2) + eps) * weight, the mean taken in fp32 (fp64 for fp64).

    Written out in torch it moves, in units of x.nbytes with x in fp32: square 2, mean 1, product 2, weight 2 = 7.
    """
    normed = wide(x)
    normed = normed * torch.rsqrt(normed.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def moved_bytes(x: torch.Tensor, weight: torch.Tensor) -> int:
    """From tensors. What rms_norm moves: read x, write the result, read the weight once (then it is in cache)."""
    return 2 * x.nbytes + weight.nbytes


def add_reference(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x[...,D], residual[...,D], weight[D] -> (RMSNorm of the sum, the sum). In torch: 3 for it, and reference's 7."""
    total = x + residual
    return reference(total, weight, eps), total


def add_moved_bytes(x: torch.Tensor, weight: torch.Tensor) -> int:
    """From tensors. What add_rms_norm moves: read x and residual, write the sum and its norm, read the weight once."""
    return 4 * x.nbytes + weight.nbytes


@triton.jit
def _rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, total_ptr, out_ptr, num_rows, D, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    offsets = rows[:, None] * D + columns[None, :]
    inside = (rows < num_rows)[:, None] & (columns < D)[None, :]
    weight = tl.load(weight_ptr + columns, mask=columns < D, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    # Rounded where torch rounds: the sum, and the norm before the weight. Casts are explicit: the interpreter
    # stores garbage for an implicit cast to bf16.
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        total = (x + residual).to(out_ptr.dtype.element_ty)
        tl.store(total_ptr + offsets, total, mask=inside)
        x = total.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=1) / D + eps)
    normed = (x * scale[:, None]).to(out_ptr.dtype.element_ty).to(tl.float32) * weight[None, :]
    tl.store(out_ptr + offsets, normed.to(out_ptr.dtype.element_ty), mask=inside)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x[...,D], weight[D] -> [...,D]: x / sqrt(mean(x^2) + eps) * weight, in x's dtype, laid out as x is.

    A transposed view of whole rows ([B,S,N,H] seen as [B,N,S,H]) is read as it lies; other strides are copied first.
    Raises ValueError for shapes, dtypes or devices that do not fit, and for D beyond 65536.
    """
    d = sizes(x=(x, "... D"), weight=(weight, "D"))["D"]
    check_dtype(x=x, weight=weight)
    check_device(x=x, weight=weight)
    _check_d(d)
    if not _lies_in_whole_rows(x):
        x = x.contiguous()
    out = torch.empty_like(x)
    _launch(x, None, weight, None, out, eps)
    return out


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x[...,D] + residual[...,D] -> total, RMSNorm(total) * weight[D] -> normed; returns (normed, total), in x's dtype.

    The sum is rounded to the dtype before it is normed, so that this equals the two steps. Raises ValueError for
    shapes, dtypes or devices that do not fit, and for D beyond 65536.
    """
    d = sizes(x=(x, "... D"), weight=(weight, "D"))["D"]
    if residual.shape != x.shape:
        raise ValueError(f"x{tuple(x.shape)} and residual{tuple(residual.shape)}: one shape is needed")
    check_dtype(x=x, residual=residual, weight=weight)
    check_device(x=x, residual=residual, weight=weight)
    _check_d(d)
    if x.stride() != residual.stride() or not _lies_in_whole_rows(x):
        x, residual = x.contiguous(), residual.contiguous()
    normed, total = torch.empty_like(x), torch.empty_like(x)
    _launch(x, residual, weight, total, normed, eps)
    return normed, total


def _check_d(d: int) -> None:
    if not 1 <= d <= MAX_D:
        raise ValueError(f"D={d}: a row of 1..{MAX_D} elements is needed")


def _lies_in_whole_rows(x: torch.Tensor) -> bool:
    """Whether x's memory is its rows, one after another in some order: then that order is as good as any."""
    return x.is_contiguous() or (x.stride(-1) == 1 and torch.empty_like(x, device="meta").stride() == x.stride())


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    total: torch.Tensor | None,
    out: torch.Tensor,
    eps: float,
) -> None:
    if x.numel() == 0:
        return
    d = x.shape[-1]
    block = next_power_of_2(d)
    rows = max(1, TILE // block)
    warps = min(32, max(1, rows * block // (32 * PER_THREAD)))
    num_rows = x.numel() // d
    launch(
        _rms_norm_kernel, (cdiv(num_rows, rows),),
        x, residual, weight.contiguous(), total, out, num_rows, d, eps, ROWS=rows, BLOCK=block, num_warps=warps,
    )  # fmt: skip
