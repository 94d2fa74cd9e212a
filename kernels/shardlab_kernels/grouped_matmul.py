"""One matrix product per expert in one launch, for experts of any number of rows, none included.

The grid is known from shapes: as many row tiles as experts of any size could need. Each program finds its expert and
tile by a prefix sum over the experts' tiles; those with nothing to do leave. MegaBlocks, arXiv 2211.15841, and vLLM's
fused_moe work so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from shardlab_kernels.checks import check_dtype, check_integers, check_rows, sizes, wide
from shardlab_kernels.dot import dot
from shardlab_kernels.launch import cdiv, check_device, launch, tuned

MAX_EXPERTS = 1024
MOST_ROWS = 256  # of an expert: beyond it all sizes are tuned as one


def _config(block_m: int, block_f: int, block_d: int, warps: int, stages: int) -> triton.Config:
    blocks = {"BLOCK_M": block_m, "BLOCK_F": block_f, "BLOCK_D": block_d}
    return triton.Config(blocks, num_warps=warps, num_stages=stages)


CONFIGS = [  # half precision
    _config(16, 64, 64, 4, 5),  # few rows an expert: the time is that of reading w
    _config(16, 128, 64, 4, 4),
    _config(32, 128, 64, 4, 4),
    _config(64, 128, 64, 4, 4),  # from 64 rows on, wgmma on Hopper
    _config(128, 128, 64, 8, 3),  # 96 KB: two blocks a multiprocessor, one starts while the other multiplies
    _config(128, 256, 64, 8, 3),
]
# fp32 has no tensor cores of its precision, and rows that are not aligned are moved number by number: both take
# many registers, so they get small tiles.
SMALL = {"BLOCK_M": 32, "BLOCK_F": 64, "BLOCK_D": 32, "num_warps": 4, "num_stages": 2}


def reference(rows: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """rows[M,D], w[E,F,D], offsets[E+1] -> [M,F], as `grouped_matmul`, in fp32 (fp64 for fp64).

    A loop over experts with a host sync. In torch it moves what the kernel does, and M * F elements for the zeros.
    """
    out = wide(rows).new_zeros(rows.shape[0], w.shape[1])
    bounds = offsets.tolist()
    for expert, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        out[start:end] = wide(rows[start:end]) @ wide(w[expert]).T
    return out.to(rows.dtype)


def moved_bytes(rows: torch.Tensor, w: torch.Tensor, experts_used: int | None = None) -> int:
    """What the kernel moves for these tensors: rows and w read once, the result written. What else is read finds cache.

    experts_used: how many experts have rows, and so have their weights read; all E where it is None.
    """
    used = w.shape[0] if experts_used is None else experts_used
    _, f, d = w.shape
    return rows.nbytes + (used * f * d + rows.shape[0] * f) * rows.element_size()


def flops(rows: torch.Tensor, w: torch.Tensor) -> int:
    """2 M F D for these tensors, where all rows belong to an expert."""
    return 2 * rows.numel() * w.shape[1]


@triton.jit
def _end(offsets_ptr, group, E, M):
    """The row after the last one of a group, held within 0..M: a wrong offset reads nothing outside.

    Groups 1..E are the experts. Group 0 is the rows before offsets[0], group E + 1 those from offsets[E] on.
    """
    end = tl.load(offsets_ptr + group, mask=(group >= 0) & (group <= E), other=M)
    return tl.minimum(tl.maximum(tl.where(group < 0, 0, end), 0), M)


@triton.jit(do_not_specialize=["M", "rows_each"])  # they change from call to call: one kernel for all
def _grouped_matmul_kernel(
    rows_ptr,
    w_ptr,
    offsets_ptr,
    out_ptr,
    M,
    E,
    F,
    D,
    stride_m,
    stride_e,
    stride_f,
    rows_each,  # only a key of the tuning: about how many rows an expert has
    EVEN: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BAND: tl.constexpr,
):
    # All tiles of one group are neighbours: its weights are read while they are in L2.
    groups = tl.arange(0, GROUPS)
    counts = tl.maximum(_end(offsets_ptr, groups, E, M) - _end(offsets_ptr, groups - 1, E, M), 0)
    tiles = tl.cdiv(counts, BLOCK_M)
    done = tl.cumsum(tiles) <= tl.program_id(0) // tl.cdiv(F, BLOCK_F)  # groups whose tiles all come before this one
    group = tl.sum(done.to(tl.int32))
    first = tl.sum(tl.where(done, tiles, 0))
    if group >= E + 2:
        return
    start = _end(offsets_ptr, group - 1, E, M)
    end = _end(offsets_ptr, group, E, M)

    # Within a group in bands of BAND row tiles; in a band, all its rows against one tile of columns, then the next.
    columns = tl.cdiv(F, BLOCK_F)
    local = tl.program_id(0) - first * columns
    band = local // (BAND * columns)
    height = tl.minimum(tl.cdiv(end - start, BLOCK_M) - band * BAND, BAND)
    local = local % (BAND * columns)
    row = start + (band * BAND + local % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = local // height * BLOCK_F + tl.arange(0, BLOCK_F)

    # Rows and columns beyond the end read the last one again, and are not stored: no mask in the loop.
    k = tl.arange(0, BLOCK_D)
    expert = tl.minimum(tl.maximum(group - 1, 0), E - 1).to(tl.int64)
    x_ptrs = rows_ptr + tl.minimum(row, end - 1).to(tl.int64)[:, None] * stride_m + k[None, :]
    w_ptrs = w_ptr + expert * stride_e + tl.minimum(column, F - 1).to(tl.int64)[None, :] * stride_f + k[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_F), dtype=tl.float32)
    depth = tl.where((group >= 1) & (group <= E), D, 0)
    for k_start in range(0, depth, BLOCK_D):
        if EVEN:
            x = tl.load(x_ptrs)
            w = tl.load(w_ptrs)
        else:
            x = tl.load(x_ptrs, mask=k[None, :] < D - k_start, other=0.0)
            w = tl.load(w_ptrs, mask=k[:, None] < D - k_start, other=0.0)
        acc = dot(x, w, acc)
        x_ptrs += BLOCK_D
        w_ptrs += BLOCK_D
    out_ptrs = out_ptr + row.to(tl.int64)[:, None] * F + column[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=(row < end)[:, None] & (column < F)[None, :])


_tuned_kernel = tuned(CONFIGS, key=["F", "D", "rows_each"])(_grouped_matmul_kernel)


def grouped_matmul(rows: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """rows[M,D] . w[E,F,D] -> [M,F]: rows[offsets[e]:offsets[e+1]] . w[e]^T for each expert e; offsets int32[E+1].

    Experts may be empty. Rows that no expert owns (from offsets[E] on: those that sort_by_expert dropped) are zero.
    offsets cannot be checked without waiting for the device: they must not decrease, and values outside 0..M are taken
    as 0 and M. fp32, bf16 or fp16, added in fp32, rounded once. The last dim of rows and w is contiguous, the others
    may be strided. Fast in half precision where 64 divides D, 16 divides F, and rows are aligned. E <= 1024.
    Raises ValueError.
    """
    found = sizes(rows=(rows, "M D"), w=(w, "E F D"), offsets=(offsets, "E+1"))
    m, d, e, f = (found[letter] for letter in "MDEF")
    dtype = check_dtype(rows=rows, w=w)
    check_integers(offsets=offsets)
    check_rows(rows=rows, w=w, offsets=offsets)
    device = check_device(rows=rows, w=w, offsets=offsets)
    if not 1 <= e <= MAX_EXPERTS:
        raise ValueError(f"w{tuple(w.shape)} has E={e}: 1..{MAX_EXPERTS} experts are supported")
    if found["E+1"] != e + 1:
        raise ValueError(f"offsets{tuple(offsets.shape)}, w{tuple(w.shape)} has E={e}: offsets[{e + 1}] is needed")
    out = torch.empty(m, f, dtype=dtype, device=device)
    if not (m and f and d):
        return out.zero_()
    rows_each = min(triton.next_power_of_2(cdiv(m, e)), MOST_ROWS)
    args = rows, w, offsets, out, m, e, f, d, rows.stride(0), w.stride(0), w.stride(1), rows_each
    meta = {"GROUPS": triton.next_power_of_2(e + 2), "BAND": 8}
    if dtype == torch.float32 or d % 64 or f % 16 or not _aligned(rows, w):
        launch(_grouped_matmul_kernel, _grid(m, e, f), *args, EVEN=d % SMALL["BLOCK_D"] == 0, **meta, **SMALL)
    else:
        launch(_tuned_kernel, _grid(m, e, f), *args, EVEN=True, **meta)
    return out


def _aligned(*tensors: torch.Tensor) -> bool:
    """Whether Triton sees that every row starts at 16 bytes."""
    strides = [stride for tensor in tensors for stride in tensor.stride()[:-1]]
    return all(stride % 16 == 0 for stride in strides) and all(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def _grid(m: int, e: int, f: int) -> Callable[[dict[str, Any]], tuple[int, ...]]:
    """A row tile for each BLOCK_M rows, and one that is not full for each of the E + 2 groups: never more."""

    def grid(meta: dict[str, Any]) -> tuple[int, ...]:
        return (min(m, m // meta["BLOCK_M"] + e + 2) * cdiv(f, meta["BLOCK_F"]),)

    return grid
