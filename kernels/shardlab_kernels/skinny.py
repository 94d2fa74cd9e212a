"""x . w for a few rows of x (decode): the time is that of reading the weight once, so the kernel is built to stream it.

Each element of w takes part in 2 * M operations, M <= 16: at 2 bytes an element that is M operations a byte, where an
H100 could do 300. Arithmetic is free; what counts is that every multiprocessor always has enough loads under way
(Little's law: 3 TB/s times a latency of 0.7 us are 2 MB, 16 KB a multiprocessor). Where N gives too few tiles for that,
programs share K (split_k.py). Splitting helps most at M = 1: Hoque et al. 2024, arXiv 2402.00025.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.checks import check_dtype, check_rows, sizes, wide
from shardlab_kernels.dot import dot
from shardlab_kernels.launch import cdiv, check_device, launch, tuned
from shardlab_kernels.split_k import (
    MAX_SPLITS,
    count_splits,
    finish_split,
    my_part_of_k,
    split_buffers,
    workspace_bytes,
)

MAX_ROWS = 16  # one tensor-core tile; more rows are matmul's
# Outputs and steps along K of the tile that a program is expected to take, by M == 1: they set the split of K.
TILE_N = {True: 4, False: 64}
TILE_K = {True: 512, False: 128}


def reference(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x[...,K] . w[N,K] + bias[N] -> [...,N], summed in fp32 (fp64 for fp64). Moves x, w, bias and the result once."""
    out = wide(x) @ wide(w).mT
    return (out if bias is None else out + wide(bias)).to(x.dtype)


def moved_bytes(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, num_splits: int = 1) -> int:
    """From tensors. What the kernel moves: read x, w and bias once, write the result; the parts of a split K twice."""
    rows = x.shape[:-1].numel()
    result = rows * w.shape[0] * x.element_size()
    return (
        x.nbytes
        + w.nbytes
        + result
        + (bias.nbytes if bias is not None else 0)
        + workspace_bytes(num_splits, rows * w.shape[0])
    )


def flops(m: int, n: int, k: int) -> int:
    """From sizes: a multiplication and an addition for each of M * N * K terms."""
    return 2 * m * n * k


def _config(block_n: int, block_k: int, warps: int, stages: int) -> triton.Config:
    return triton.Config({"BLOCK_N": block_n, "BLOCK_K": block_k, "STAGES": stages}, num_warps=warps, num_stages=stages)


KEY = ["N", "K", "SPLITS"]
ONE_ROW_CONFIGS = [_config(8, 512, 4, 1), _config(4, 1024, 4, 2), _config(16, 512, 8, 2), _config(4, 512, 2, 3)]
ROWS_CONFIGS = [_config(64, 64, 4, 3), _config(64, 128, 4, 4), _config(64, 256, 4, 3), _config(32, 128, 4, 5)]


@tuned(ONE_ROW_CONFIGS, KEY)
@triton.jit
def _one_row_kernel(
    x_ptr, w_ptr, bias_ptr, out_ptr, workspace_ptr, counters_ptr, M, N, K, stride_w,
    SPLITS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0), tl.program_id(1)
    rows = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    # A row beyond N reads the last row again, and is not stored: cheaper than a second mask in the loop.
    w_rows = w_ptr + tl.minimum(rows, N - 1).to(tl.int64)[:, None] * stride_w
    first, end = my_part_of_k(K, split, SPLITS, BLOCK_K)  # pyright: ignore[reportGeneralTypeIssues]
    # Products are added up in place, element by element; threads talk to each other only once, after the loop.
    sums = tl.zeros([BLOCK_N, BLOCK_K], dtype=tl.float32)
    for k in tl.range(first, end, BLOCK_K, num_stages=STAGES):
        columns = k + tl.arange(0, BLOCK_K)
        w = tl.load(w_rows + columns[None, :], mask=(columns < end)[None, :], other=0.0, eviction_policy="evict_first")
        x = tl.load(x_ptr + columns, mask=columns < end, other=0.0)
        sums += w.to(tl.float32) * x.to(tl.float32)[None, :]
    acc = tl.sum(sums, axis=1)
    bias = 0.0
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
    finish_split(acc, bias, out_ptr, rows, rows < N, workspace_ptr, counters_ptr, N, tile, split, SPLITS)


@tuned(ROWS_CONFIGS, KEY)
@triton.jit
def _rows_kernel(
    x_ptr, w_ptr, bias_ptr, out_ptr, workspace_ptr, counters_ptr, M, N, K, stride_w,
    SPLITS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0), tl.program_id(1)
    rows = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.arange(0, 16)  # a tensor core's smallest side; rows of x beyond M are zeros, and nobody reads them
    w_rows = w_ptr + tl.minimum(rows, N - 1).to(tl.int64)[:, None] * stride_w
    x_rows = x_ptr + m[None, :] * K
    first, end = my_part_of_k(K, split, SPLITS, BLOCK_K)  # pyright: ignore[reportGeneralTypeIssues]
    # The weight is the left factor: its tile is the tall one, and the tensor core takes it from shared memory as it
    # arrives, without a stay in registers. acc[n,m] is the result transposed.
    acc = tl.zeros([BLOCK_N, 16], dtype=tl.float32)
    for k in tl.range(first, end, BLOCK_K, num_stages=STAGES):
        columns = k + tl.arange(0, BLOCK_K)
        inside = columns < end
        w = tl.load(w_rows + columns[None, :], mask=inside[None, :], other=0.0, eviction_policy="evict_first")
        x = tl.load(x_rows + columns[:, None], mask=inside[:, None] & (m < M)[None, :], other=0.0)
        acc = dot(w, x, acc)
    bias = 0.0
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)[:, None]
    offsets = m[None, :] * N + rows[:, None]
    inside = (rows < N)[:, None] & (m < M)[None, :]
    finish_split(acc, bias, out_ptr, offsets, inside, workspace_ptr, counters_ptr, M * N, tile, split, SPLITS)


def skinny_matmul(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, *, num_splits: int | None = None
) -> torch.Tensor:
    """x[...,K] . w[N,K] (+ bias[N]) -> [...,N], in x's dtype, for at most 16 rows of x. Sums in fp32, rounded once.

    w may be a view with strided rows (last dim contiguous). num_splits: programs that share K, 1..16; None chooses from
    sizes. Within a process the same arguments give the same bits; another process may tune to another tile. Raises
    ValueError for shapes, dtypes or devices that do not fit, more than 16 rows, num_splits out of range.
    """
    size = sizes(x=(x, "... K"), w=(w, "N K"), bias=(bias, "N"))
    check_dtype(x=x, w=w, bias=bias)
    device = check_device(x=x, w=w, bias=bias)
    check_rows(w=w)
    m, n, k = x.shape[:-1].numel(), size["N"], size["K"]
    if m > MAX_ROWS:
        raise ValueError(f"x{tuple(x.shape)} has {m} rows: at most {MAX_ROWS} are supported; matmul takes more")
    if num_splits is not None and not 1 <= num_splits <= MAX_SPLITS:
        raise ValueError(f"num_splits={num_splits}: 1..{MAX_SPLITS} is needed")
    out = x.new_empty(*x.shape[:-1], n)
    if out.numel() == 0:
        return out
    one_row = m == 1
    kernel, tile_n = (_one_row_kernel if one_row else _rows_kernel), TILE_N[one_row]
    if num_splits is None:
        num_splits = count_splits(cdiv(n, tile_n), cdiv(k, TILE_K[one_row]), device)
    smallest = min(config.kwargs["BLOCK_N"] for config in kernel.configs)
    workspace, counters = split_buffers(num_splits, m * n, cdiv(n, smallest), device)
    x, bias = x.contiguous(), bias if bias is None else bias.contiguous()
    launch(
        kernel, lambda meta: (cdiv(n, meta["BLOCK_N"]), num_splits),
        x, w, bias, out, workspace, counters, m, n, k, w.stride(0), SPLITS=num_splits,
    )  # fmt: skip
    return out
