"""Rotary position embedding of q and k, in place, in one launch. Su et al. 2021, arXiv 2104.09864.

The halves of a head are the pairs (element i with i + H/2), as Hugging Face stores the weights.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.checks import check_dtype, check_rows, sizes, wide
from shardlab_kernels.launch import cdiv, check_device, launch, next_power_of_2

MAX_H = 256
TILE = 2048  # pairs that a program turns: 16 a thread, two loads of 16 bytes from each half in a half precision
POSITIONS = 4  # of a tile; heads fill the rest, so that angles are read once for many heads


def reference(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """q[B,N,S,H], k[B,K,S,H], cos, sin [S,H] or [B,S,H] -> q and k turned: x * cos + (-second half, first half) * sin.

    In torch, for each of q and k, in units of its nbytes: two products 4, negation 1, concatenation 2, sum 3 = 10.
    """
    if cos.dim() == 3:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return _turned(q, cos, sin), _turned(k, cos, sin)


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = wide(x).chunk(2, dim=-1)
    return (wide(x) * wide(cos) + torch.cat((-second, first), dim=-1) * wide(sin)).to(x.dtype)


def moved_bytes(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor) -> int:
    """From tensors. What the kernel moves: q and k read and written, and half of cos and of sin read once."""
    return 2 * (q.nbytes + k.nbytes) + cos.nbytes


@triton.jit
def _turn(
    x_ptr, stride_b, stride_n, stride_s, cos_ptr, sin_ptr, angles_stride_b, num_heads, first_head, S, H,
    HEADS: tl.constexpr, POSITIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Turn the pairs of one tile x[b, HEADS, POSITIONS, :]. A thread reads both of a pair before it writes them."""
    heads = (first_head + tl.arange(0, HEADS))[:, None, None]
    positions = (tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS))[None, :, None]
    pairs = tl.arange(0, BLOCK)[None, None, :]
    half = H // 2
    turning = (positions < S) & (pairs < half)
    b = tl.program_id(2).to(tl.int64)
    angles = positions * H + pairs
    cos = tl.load(cos_ptr + b * angles_stride_b + angles, mask=turning, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + b * angles_stride_b + angles, mask=turning, other=0.0).to(tl.float32)
    first_ptr = x_ptr + b * stride_b
    first_ptr += heads.to(tl.int64) * stride_n + positions.to(tl.int64) * stride_s + pairs
    inside = (heads < num_heads) & turning
    first = tl.load(first_ptr, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(first_ptr + half, mask=inside, other=0.0).to(tl.float32)
    tl.store(first_ptr, (first * cos - second * sin).to(x_ptr.dtype.element_ty), mask=inside)
    tl.store(first_ptr + half, (second * cos + first * sin).to(x_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _rope_kernel(
    q_ptr, k_ptr, cos_ptr, sin_ptr, q_stride_b, q_stride_n, q_stride_s, k_stride_b, k_stride_n, k_stride_s,
    angles_stride_b, N, K, S, H,
    HEADS: tl.constexpr, POSITIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    first_head = tl.program_id(1) * HEADS
    q_heads = tl.cdiv(N, HEADS) * HEADS  # a program turns heads of q, or heads of k
    if first_head < q_heads:
        _turn(
            q_ptr, q_stride_b, q_stride_n, q_stride_s, cos_ptr, sin_ptr, angles_stride_b, N, first_head, S, H,
            HEADS, POSITIONS, BLOCK,
        )  # fmt: skip
    else:
        first_head -= q_heads
        _turn(
            k_ptr, k_stride_b, k_stride_n, k_stride_s, cos_ptr, sin_ptr, angles_stride_b, K, first_head, S, H,
            HEADS, POSITIONS, BLOCK,
        )  # fmt: skip


def rope_(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """q[B,N,S,H], k[B,K,S,H], cos, sin [S,H] or [B,S,H] -> None: q and k turn in place, in fp32, rounded once.

    All rows share the angles, or each has its own. q and k may be views with any strides, the last dim contiguous.
    cos and sin share a dtype, q's or fp32; only their first halves are read, the second repeats the first.
    Raises ValueError for shapes, dtypes, devices or strides that do not fit, for H odd or beyond 256, and for memory
    that would be turned twice (expanded, or q and k the same).
    """
    angles = "B S H" if cos.dim() == 3 else "S H"
    size = sizes(q=(q, "B N S H"), k=(k, "B K S H"), cos=(cos, angles), sin=(sin, angles))
    check_dtype(q=q, k=k)
    check_dtype(cos=cos, sin=sin)
    check_device(q=q, k=k, cos=cos, sin=sin)
    check_rows(q=q, k=k)
    b, n, num_kv, s, h = (size[letter] for letter in "BNKSH")
    if h % 2 or not 2 <= h <= MAX_H:
        raise ValueError(f"H={h}: pairs are turned, so an even head_dim of 2..{MAX_H} is needed")
    for name, x in (("q", q), ("k", k)):
        if _overlaps(x):
            raise ValueError(f"{name}{tuple(x.shape)} has strides {x.stride()}: elements that share memory turn twice")
    if q.numel() and q.data_ptr() == k.data_ptr():
        raise ValueError("q and k are the same memory: it would be turned twice")
    if b * s * (n + num_kv) == 0:
        return
    block = next_power_of_2(h // 2)
    positions = min(POSITIONS, next_power_of_2(s))
    heads = max(1, min(next_power_of_2(max(n, num_kv)), TILE // (positions * block)))
    grid = (cdiv(s, positions), cdiv(n, heads) + cdiv(num_kv, heads), b)
    launch(
        _rope_kernel, grid,
        q, k, cos.contiguous(), sin.contiguous(), *q.stride()[:3], *k.stride()[:3],
        s * h if cos.dim() == 3 else 0, n, num_kv, s, h,
        HEADS=heads, POSITIONS=positions, BLOCK=block,
    )  # fmt: skip


def _overlaps(x: torch.Tensor) -> bool:
    """Whether two indices may reach one element: some dim's step is shorter than what the dims below it cover."""
    covered = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1):
        if stride < covered:
            return True
        covered += stride * (size - 1)
    return False
