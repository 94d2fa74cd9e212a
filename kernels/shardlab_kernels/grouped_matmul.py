"""One matrix product per expert in one launch, for experts of any number of rows, none included.

The number of tiles is bounded from shapes: as many row tiles as experts of any size could need. Each tile finds its
expert and place by a prefix sum over the experts' tiles; what is not needed is skipped. MegaBlocks, arXiv 2211.15841,
and vLLM's fused_moe work so. The loop is that of matmul.py.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from shardlab_kernels.checks import check_dtype, check_integers, check_rows, sizes, wide
from shardlab_kernels.dot import dot
from shardlab_kernels.launch import cdiv, check_device, launch, next_power_of_2, num_multiprocessors, tuned

MAX_EXPERTS = 1024
MOST_ROWS = 256  # of an expert: beyond it all sizes are tuned as one


def _describe_tiles(arguments: dict[str, Any]) -> None:
    """Before a launch: the copy engine's tiles take the sizes of the configuration."""
    arguments["x_tiles"].block_shape = [arguments["BLOCK_M"], arguments["BLOCK_D"]]
    arguments["w_tiles"].block_shape = [arguments["BLOCK_F"], arguments["BLOCK_D"]]


def _config(block_m: int, block_f: int, block_d: int, per_sm: int, warps: int, stages: int) -> triton.Config:
    blocks = {"BLOCK_M": block_m, "BLOCK_F": block_f, "BLOCK_D": block_d, "PER_SM": per_sm}
    return triton.Config(blocks, num_warps=warps, num_stages=stages, pre_hook=_describe_tiles)


CONFIGS = [  # half precision
    _config(16, 64, 64, 4, 4, 5),  # few rows an expert: the time is that of reading w
    _config(16, 128, 64, 3, 4, 4),
    _config(32, 128, 64, 2, 4, 4),
    _config(64, 128, 64, 2, 4, 4),  # from 64 rows on, wgmma on Hopper
    _config(128, 128, 64, 2, 4, 3),
    _config(128, 128, 64, 2, 8, 3),
    _config(128, 256, 64, 1, 8, 3),
    _config(128, 256, 64, 1, 8, 4),
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


@triton.jit
def _place(
    tile, offsets_ptr, M, E, F,
    GROUPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    """-> (group, end of its rows, first row of the tile, first column). A tile that is not needed has group E + 2.

    All tiles of one group are neighbours: its weights are read while they are in L2. Within a group in bands of BAND
    row tiles; in a band, all its rows against one tile of columns, then the next.
    """
    groups, columns = tl.arange(0, GROUPS), tl.cdiv(F, BLOCK_F)
    counts = tl.maximum(_end(offsets_ptr, groups, E, M) - _end(offsets_ptr, groups - 1, E, M), 0)
    tiles = tl.cdiv(counts, BLOCK_M)
    done = tl.cumsum(tiles) <= tile // columns  # groups whose tiles all come before this one
    group = tl.minimum(tl.sum(done.to(tl.int32)), E + 2)
    first = tl.sum(tl.where(done, tiles, 0))
    start = _end(offsets_ptr, group - 1, E, M)
    end = _end(offsets_ptr, group, E, M)
    local = tile - first * columns
    band = local // (BAND * columns)
    height = tl.maximum(tl.minimum(tl.cdiv(end - start, BLOCK_M) - band * BAND, BAND), 1)
    local = local % (BAND * columns)
    return group, end, start + (band * BAND + local % height) * BLOCK_M, local // height * BLOCK_F


@triton.jit(do_not_specialize=["M"])  # it changes from call to call: one kernel for all
def _grouped_matmul_kernel(
    rows_ptr, w_ptr, offsets_ptr, out_ptr, M, E, F, D, stride_m, stride_e, stride_f,
    EVEN: tl.constexpr, GROUPS: tl.constexpr, BAND: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Any strides, and fp32."""
    place = _place(tl.program_id(0), offsets_ptr, M, E, F, GROUPS, BLOCK_M, BLOCK_F, BAND)
    group, end, row, column = place  # pyright: ignore[reportGeneralTypeIssues]
    if group >= E + 2:
        return
    row, column, k = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_F), tl.arange(0, BLOCK_D)
    # Rows and columns beyond the end read the last one again, and are not stored: no mask in the loop.
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


@triton.jit(do_not_specialize=["M", "rows_each"])
def _grouped_tiles_kernel(
    x_tiles, w_tiles, offsets_ptr, out_ptr, M, E, F, D,
    rows_each,  # only a key of the tuning: about how many rows an expert has
    GROUPS: tl.constexpr, BAND: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr,
    PER_SM: tl.constexpr,
):  # fmt: skip
    """As matmul.py: the copy engine brings the tiles, and programs that stay take one tile after another.

    w_tiles sees w as [E * F, D]. A tile may reach into the next expert's rows or columns: those are not stored.
    """
    num_tiles = tl.minimum(M, M // BLOCK_M + E + 2) * tl.cdiv(F, BLOCK_F)  # as _num_tiles has it
    for tile in tl.range(tl.program_id(0), num_tiles, tl.num_programs(0), flatten=True):
        place = _place(tile, offsets_ptr, M, E, F, GROUPS, BLOCK_M, BLOCK_F, BAND)
        group, end, first_row, first_column = place  # pyright: ignore[reportGeneralTypeIssues]
        first_w = (group - 1) * F + first_column
        acc = tl.zeros((BLOCK_M, BLOCK_F), dtype=tl.float32)
        for step in range(tl.where((group >= 1) & (group <= E), tl.cdiv(D, BLOCK_D), 0)):
            x = x_tiles.load([first_row, step * BLOCK_D])
            w = w_tiles.load([first_w, step * BLOCK_D])
            acc = dot(x, w.T, acc)
        row, column = first_row + tl.arange(0, BLOCK_M), first_column + tl.arange(0, BLOCK_F)
        inside = ((row < end) & (group < E + 2))[:, None] & (column < F)[None, :]
        out_ptrs = out_ptr + row.to(tl.int64)[:, None] * F + column[None, :]
        tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=inside)


_tuned_kernel = tuned(CONFIGS, key=["F", "D", "rows_each"])(_grouped_tiles_kernel)


def grouped_matmul(rows: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """rows[M,D] . w[E,F,D] -> [M,F]: rows[offsets[e]:offsets[e+1]] . w[e]^T for each expert e; offsets int32[E+1].

    Experts may be empty. Rows that no expert owns (from offsets[E] on: those that sort_by_expert dropped) are zero.
    offsets cannot be checked without waiting for the device: they must not decrease, and values outside 0..M are taken
    as 0 and M. fp32, bf16 or fp16, added in fp32, rounded once. The last dim of rows and w is contiguous, the others
    may be strided. Fast in half precision where 16 divides D and F, and w's experts lie one after another. E <= 1024.
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
    meta = {"GROUPS": triton.next_power_of_2(e + 2), "BAND": 8}
    if dtype == torch.float32 or f % 16 or not (_aligned(rows, w) and w.stride(0) == f * w.stride(1)):
        tiles = _num_tiles(m, e, f, SMALL["BLOCK_M"], SMALL["BLOCK_F"])
        args = rows, w, offsets, out, m, e, f, d, rows.stride(0), w.stride(0), w.stride(1)
        launch(_grouped_matmul_kernel, (tiles,), *args, EVEN=d % SMALL["BLOCK_D"] == 0, **meta, **SMALL)
        return out
    x_tiles, w_tiles = (TensorDescriptor.from_tensor(one, [1, 16]) for one in (rows, w.flatten(0, 1)))
    rows_each = min(next_power_of_2(cdiv(m, e)), MOST_ROWS)

    def grid(meta: dict[str, Any]) -> tuple[int, ...]:
        return (min(_num_tiles(m, e, f, meta["BLOCK_M"], meta["BLOCK_F"]), processors * meta["PER_SM"]),)

    processors = num_multiprocessors(device)
    launch(_tuned_kernel, grid, x_tiles, w_tiles, offsets, out, m, e, f, d, rows_each, **meta)
    return out


def _aligned(*tensors: torch.Tensor) -> bool:
    """Whether Triton sees that every row starts at 16 bytes."""
    strides = [stride for tensor in tensors for stride in tensor.stride()[:-1]]
    return all(stride % 16 == 0 for stride in strides) and all(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def _num_tiles(m: int, e: int, f: int, block_m: int, block_f: int) -> int:
    """A row tile for each block_m rows, and one that is not full for each of the E + 2 groups: never more."""
    return min(m, m // block_m + e + 2) * cdiv(f, block_f)
