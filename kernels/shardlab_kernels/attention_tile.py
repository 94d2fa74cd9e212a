"""What the attention kernels share: the online softmax, and one tile of queries against all the keys that it sees.

FlashAttention-2: Dao 2023, arXiv 2307.08691. Online softmax: Milakov and Gimelshein 2018, arXiv 1805.02867.
Scores are kept in units of log2: `scale` is the attention's scale times log2(e), and exp2 is one instruction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from shardlab_kernels.dot import dot
from shardlab_kernels.launch import tuned

LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
LOG2E = 1.4426950408889634
MIN_H, MAX_H = 16, 256  # head_dim, a multiple of 8: tl.dot's smallest side, and what fits the registers


def check_head_dim(h: int) -> None:
    """Raises ValueError for a head_dim that the attention kernels do not support."""
    if not MIN_H <= h <= MAX_H or h % 8:
        raise ValueError(f"H={h}: a head_dim of {MIN_H}..{MAX_H} that is a multiple of 8 is supported")


def padded(h: int) -> int:
    """-> the power of two that a tile is wide for this head_dim; loads leave out the rest."""
    return max(MIN_H, 1 << (h - 1).bit_length())


def check_scale(scale: float | None, h: int) -> float:
    """-> the scale, by default H ** -0.5, in units of log2. Raises ValueError unless it is above 0."""
    if scale is not None and not 0 < scale < float("inf"):
        raise ValueError(f"scale={scale}: a finite number above 0 is needed")
    return (h**-0.5 if scale is None else scale) * LOG2E


def check_window(window: int | None) -> None:
    """Raises ValueError for a window that hides every key."""
    if window is not None and window < 1:
        raise ValueError(f"window={window}: at least 1 is needed, or None for no window")


def limits(s: int, c: int, causal: bool, query_offset: int | None, window: int | None) -> tuple[int, int]:
    """-> (first, last): query i of s sees the keys j of c with i + first <= j <= i + last. Both fit 32 bits."""
    offset = c - s if query_offset is None else query_offset
    first = -s if window is None else offset - window + 1
    last = offset if causal else c
    return min(max(first, -s), c), min(max(last, -s), c)


@triton.jit
def weigh(scores, l, m, visible, scale, MASKED: tl.constexpr):
    """scores[M,N] -> (weights[M,N], rescale[M], l[M], m[M]): m the running maximum, l the running sum, 2^m its unit."""
    if MASKED:
        scores = tl.where(visible, scores * scale, float("-inf"))
        new_m = tl.maximum(m, tl.max(scores, 1))
        unit = tl.where(new_m == float("-inf"), 0.0, new_m)  # a row that has seen no key yet: -inf - -inf would be NaN
        weights = tl.exp2(scores - unit[:, None])
    else:
        new_m = tl.maximum(m, tl.max(scores, 1) * scale)
        unit = new_m
        weights = tl.exp2(scores * scale - unit[:, None])
    rescale = tl.exp2(m - unit)
    return weights, rescale, l * rescale + tl.sum(weights, 1), new_m


@triton.jit
def finish(acc, l, m):
    """-> (out[M,H], lse[M], natural log). A row that saw no key: 0 and -inf."""
    nothing = l == 0.0
    out = acc / tl.where(nothing, 1.0, l)[:, None]
    return out, tl.where(nothing, float("-inf"), (m + tl.log2(tl.where(nothing, 1.0, l))) * LN2)


@triton.jit
def load_rows(
    ptr, row, stride, limit, H: tl.constexpr, BLOCK: tl.constexpr, BLOCK_H: tl.constexpr, MASKED: tl.constexpr
):
    """-> [BLOCK, BLOCK_H]: rows row.. of [limit, H], zeros outside. 64 bits to the first row, 32 within the tile."""
    rows, dims = tl.arange(0, BLOCK), tl.arange(0, BLOCK_H)
    ptrs = ptr + tl.cast(row, tl.int64) * stride + (rows[:, None] * stride + dims[None, :])
    if MASKED:
        return tl.load(ptrs, mask=(row + rows < limit)[:, None] & (dims < H)[None, :], other=0.0)
    elif H != BLOCK_H:
        return tl.load(ptrs, mask=(dims < H)[None, :], other=0.0)
    else:
        return tl.load(ptrs)


@triton.jit
def _absorb(
    acc, l, m, q, k_ptr, v_ptr, stride_k, stride_v, begin, end, limit, rows, first, last, scale,
    H: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Keys begin..end-1, BLOCK_N at a time. Unless MASKED, every row sees all of them."""
    for j in range(begin, end, BLOCK_N):
        k = load_rows(k_ptr, j, stride_k, limit, H, BLOCK_N, BLOCK_H, MASKED)
        scores = dot(q, tl.trans(k), tl.zeros([rows.shape[0], BLOCK_N], tl.float32))
        keys = j + tl.arange(0, BLOCK_N)
        visible = (keys < limit)[None, :]
        if CAUSAL:
            visible = visible & (keys[None, :] <= rows[:, None] + last)
        if WINDOW:
            visible = visible & (keys[None, :] >= rows[:, None] + first)
        weights, rescale, l, m = weigh(scores, l, m, visible, scale, MASKED)
        v = load_rows(v_ptr, j, stride_v, limit, H, BLOCK_N, BLOCK_H, MASKED)
        acc = dot(weights.to(v.dtype), v, acc * rescale[:, None])
    return acc, l, m


@triton.jit
def attend_tile(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, stride_q, stride_k, stride_v, stride_out, stride_lse,
    tile, num_queries, num_keys, first, last, scale,
    H: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """One sequence, one head: queries tile * BLOCK_M .. against keys 0..num_keys-1. Strides are from row to row."""
    row = tile * BLOCK_M
    rows = row + tl.arange(0, BLOCK_M)
    q = load_rows(q_ptr, row, stride_q, num_queries, H, BLOCK_M, BLOCK_H, True)
    acc = tl.zeros([BLOCK_M, BLOCK_H], tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    # Keys begin..end-1 are seen by some row, keys full_begin..full_end-1 by all rows: those need no mask. The blocks
    # between are cut at multiples of BLOCK_N, so that no block is read twice.
    begin, full_begin, end, full_end = 0, 0, num_keys, num_keys
    if CAUSAL:
        end = tl.maximum(tl.minimum(num_keys, row + BLOCK_M + last), 0)
        full_end = tl.maximum(tl.minimum(num_keys, row + 1 + last), 0)
    if WINDOW:
        begin = tl.maximum(row + first, 0) // BLOCK_N * BLOCK_N
        full_begin = tl.minimum(tl.cdiv(tl.maximum(row + BLOCK_M - 1 + first, 0), BLOCK_N) * BLOCK_N, end)
        acc, l, m = _absorb(
            acc, l, m, q, k_ptr, v_ptr, stride_k, stride_v, begin, full_begin, end, rows, first, last, scale,
            H, BLOCK_H, BLOCK_N, CAUSAL, WINDOW, True,
        )  # fmt: skip
    full_end = tl.maximum(full_end // BLOCK_N * BLOCK_N, full_begin)
    acc, l, m = _absorb(
        acc, l, m, q, k_ptr, v_ptr, stride_k, stride_v, full_begin, full_end, end, rows, first, last, scale,
        H, BLOCK_H, BLOCK_N, CAUSAL, WINDOW, False,
    )  # fmt: skip
    acc, l, m = _absorb(
        acc, l, m, q, k_ptr, v_ptr, stride_k, stride_v, full_end, end, end, rows, first, last, scale,
        H, BLOCK_H, BLOCK_N, CAUSAL, WINDOW, True,
    )  # fmt: skip
    out, lse = finish(acc, l, m)
    dims = tl.arange(0, BLOCK_H)
    inside = rows < num_queries
    out_ptrs = out_ptr + tl.cast(row, tl.int64) * stride_out + ((rows - row)[:, None] * stride_out + dims[None, :])
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=inside[:, None] & (dims < H)[None, :])
    tl.store(lse_ptr + tl.cast(rows, tl.int64) * stride_lse, lse, mask=inside)


def _configs(*rows: tuple[int, int, int, int]) -> Sequence[triton.Config]:
    return [
        triton.Config({"BLOCK_M": m, "BLOCK_N": n}, num_warps=warps, num_stages=stages) for m, n, warps, stages in rows
    ]


# (BLOCK_M, BLOCK_N, warps, stages) by dtype size and padded head_dim. The first fits 99 KB of shared memory. With 64
# rows and 4 warps two blocks share a multiprocessor: one calculates its softmax while the other multiplies. On sm_90
# none spills but (128, 64) at H 256 with a window, 24 bytes; on sm_80 the largest do, under 100 bytes (compile_only).
_CONFIGS = {
    (2, 64): _configs((64, 64, 4, 3), (128, 64, 4, 3), (128, 64, 8, 3), (128, 128, 8, 2), (128, 128, 8, 3)),
    (2, 128): _configs((64, 64, 4, 2), (64, 64, 4, 3), (128, 64, 8, 3), (128, 128, 8, 2), (128, 128, 8, 3)),
    (2, 256): _configs((64, 32, 8, 2), (128, 32, 8, 2), (128, 32, 8, 3), (128, 64, 8, 2)),
    (4, 64): _configs((64, 32, 8, 1)),
    (4, 128): _configs((32, 16, 8, 1)),
    (4, 256): _configs((32, 16, 8, 1)),
}


def tuned_by_size(kernel: object, key: Sequence[str]) -> dict[tuple[int, int], object]:
    """-> the kernel tuned for each (dtype size, padded head_dim): what fits one would spill in another."""
    return {size: tuned(configs, key)(kernel) for size, configs in _CONFIGS.items()}


def size_class(dtype: torch.dtype, h: int) -> tuple[int, int]:
    """-> the key of tuned_by_size."""
    return dtype.itemsize, max(64, padded(h))


def tuning_bucket(s: int) -> int:
    """Query counts that share a tuned configuration: few, because each is timed at its first call."""
    return 128 if s <= 128 else 1024 if s <= 1024 else 4096
