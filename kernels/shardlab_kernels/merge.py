"""Attention over parts of the keys -> attention over all of them, from each part's out and log-sum-exp.

The same sum serves split-KV decode, ring attention and context-parallel decode. FlashDecoding: Dao et al. 2023,
https://pytorch.org/blog/flash-decoding/; Milakov and Gimelshein 2018, arXiv 1805.02867.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.checks import FLOATS, check_dtype, wide
from shardlab_kernels.launch import cdiv, check_device, launch, num_multiprocessors

TILE = 4096  # elements that a program holds at a time


def reference(
    outs: torch.Tensor, lses: torch.Tensor, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """outs[P,...,H], lses[P,...] -> (out[...,H] = sum over P of softmax(lses) * outs, lse[...] = logsumexp(lses)).

    In torch, with outs in fp32: product 2, sum 1, the NaN guard 2 = 5 x outs.nbytes.
    """
    lse = wide(lses).logsumexp(0)
    weights = torch.exp(wide(lses) - lse.clamp(min=torch.finfo(lse.dtype).min))[..., None]
    return torch.where(weights == 0, 0, weights * wide(outs)).sum(0).to(dtype or outs.dtype), lse


def moved_bytes(outs: torch.Tensor, lses: torch.Tensor, dtype: torch.dtype | None = None) -> int:
    """Read outs and lses, write out and lse once. From tensors."""
    num_parts = max(outs.shape[0], 1)
    return outs.nbytes + lses.nbytes + (outs.numel() * (dtype or outs.dtype).itemsize + lses.nbytes) // num_parts


@triton.jit
def _merge_kernel(
    outs_ptr, lses_ptr, out_ptr, lse_ptr, P, R, H,
    BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Rows r of R, dims d of H; parts BLOCK_P at a time, with the online softmax."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    dims = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    inside = (rows < R)[:, None] & (dims < H)[None, :]
    at = rows[:, None] * H + dims[None, :]
    acc = tl.zeros([BLOCK_R, BLOCK_H], tl.float32)
    l = tl.zeros([BLOCK_R], tl.float32)
    m = tl.full([BLOCK_R], float("-inf"), tl.float32)
    for p in tl.range(0, P, BLOCK_P):
        parts = (p + tl.arange(0, BLOCK_P)).to(tl.int64)
        known = (parts < P)[:, None] & (rows < R)[None, :]
        lses = tl.load(lses_ptr + parts[:, None] * R + rows[None, :], mask=known, other=float("-inf"))
        # An empty part's out may hold anything, and is not read.
        full = (lses != float("-inf"))[:, :, None] & inside[None, :, :]
        outs = tl.load(outs_ptr + parts[:, None, None] * R * H + at[None, :, :], mask=full, other=0.0).to(tl.float32)
        new_m = tl.maximum(m, tl.max(lses, 0))
        unit = tl.where(new_m == float("-inf"), 0.0, new_m)
        weights = tl.exp(lses - unit[None, :])
        rescale = tl.exp(m - unit)
        l = l * rescale + tl.sum(weights, 0)
        acc = acc * rescale[:, None] + tl.sum(weights[:, :, None] * outs, 0)
        m = new_m
    total = tl.where(l == 0.0, 1.0, l)
    tl.store(out_ptr + at, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=inside)
    if tl.program_id(1) == 0:
        tl.store(lse_ptr + rows, tl.where(l == 0.0, float("-inf"), m + tl.log(total)), mask=rows < R)


def merge(
    outs: torch.Tensor, lses: torch.Tensor, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """outs[P,...,H], lses[P,...] -> (out[...,H], lse[...] fp32): parts weighted by exp(lse), lse a natural logarithm.

    A part with lse = -inf counts nothing, even when its out is NaN; where all parts are empty, out = 0 and lse = -inf.
    outs is fp32, bf16 or fp16, lses fp32; sums are fp32, out is of `dtype`, by default that of outs.
    Raises ValueError for shapes, dtypes or devices that do not fit, and for P = 0.
    """
    if outs.ndim < 2 or lses.shape != outs.shape[:-1] or not outs.shape[0]:
        raise ValueError(
            f"outs{tuple(outs.shape)}, lses{tuple(lses.shape)}: outs[P,...,H], lses[P,...], P >= 1 are needed"
        )
    dtype = check_dtype(outs=outs) if dtype is None else dtype
    if lses.dtype != torch.float32:
        raise ValueError(f"lses is {lses.dtype}: float32 is needed")
    check_dtype(outs=outs)
    if dtype not in FLOATS:
        raise ValueError(f"dtype={dtype}: a floating-point dtype is needed")
    device = check_device(outs=outs, lses=lses)
    outs, lses = outs.contiguous(), lses.contiguous()
    out = torch.empty(outs.shape[1:], dtype=dtype, device=device)
    lse = torch.empty(lses.shape[1:], dtype=torch.float32, device=device)
    p, r, h = outs.shape[0], lse.numel(), outs.shape[-1]
    if out.numel():
        block_p, block_r, block_h = blocks(p, r, h, num_multiprocessors(device))
        grid = (cdiv(r, block_r), cdiv(h, block_h))
        launch(_merge_kernel, grid, outs, lses, out, lse, p, r, h, BLOCK_P=block_p, BLOCK_R=block_r, BLOCK_H=block_h)
    return out, lse


def blocks(p: int, r: int, h: int, num_multiprocessors: int) -> tuple[int, int, int]:
    """-> (BLOCK_P, BLOCK_R, BLOCK_H). Many rows: fill the tile. Few: a row a program, its dims and parts spread out."""
    block_h = min(1 << (h - 1).bit_length(), 128)
    while block_h > 32 and r * cdiv(h, block_h) < num_multiprocessors:
        block_h //= 2
    block_p = min(1 << (p - 1).bit_length(), TILE // block_h)
    rows = min(TILE // (block_p * block_h), max(r // (4 * num_multiprocessors), 1))
    return block_p, 1 << (rows.bit_length() - 1), block_h
