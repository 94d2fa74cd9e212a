"""x . w for a few rows of x (decode) with w in four bits: the time is that of reading w, a quarter of bf16's.

But a byte must be undone as fast as it arrives: 3 TB/s are 6e12 weights/s, for which an H100 has fewer than 5
instructions each. With one row a weight takes 2 and a share of the rest, 3.0 to 3.5 in all: a mask that leaves the
nibble's bits where they are (int4.tiny_float) and a multiply-add. The scale comes in once for 8 weights, the minimum
as minimum * sum(x). More rows go to the tensor cores, at about 5. Where N gives too few programs they share K
(split_k.py), which helps most for one row: Hoque et al. 2024, arXiv 2402.00025.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.int4 import RUN, Int4Weight, flops, moved_bytes, reference, spread, tiny_float
from shardlab_kernels.int4_matmul import check_arguments, int4_tile
from shardlab_kernels.launch import cdiv, launch, tuned
from shardlab_kernels.split_k import count_splits, finish_split, my_part_of_k, split_buffers

__all__ = ["MAX_ROWS", "flops", "int4_gemv", "moved_bytes", "reference"]

MAX_ROWS = 16  # one tensor-core tile; more rows are int4_matmul's
TILE_N = {True: 16, False: 64}  # outputs that a program is expected to take, for one row and for more: sets the split
TILE_K = {True: 512, False: 128}
LEAST_N = 16  # no configuration has smaller tiles: so many counters are enough

# A nibble's bits, read as a float, are 2**-149 times too small. 2**149 is beyond float32, so x takes 2**80 of it and
# the scale the rest.
_UP: tl.constexpr = tl.constexpr(2.0**80)
_BACK: tl.constexpr = tl.constexpr(2.0**69)


def _config(block_n: int, block_k: int, warps: int, stages: int) -> triton.Config:
    return triton.Config({"BLOCK_N": block_n, "BLOCK_K": block_k, "STAGES": stages}, num_warps=warps, num_stages=stages)


ONE_ROW_CONFIGS = (
    _config(16, 1024, 4, 2),
    _config(16, 1024, 4, 3),
    _config(16, 512, 2, 4),
    _config(32, 1024, 4, 2),
    _config(32, 512, 4, 3),
    _config(32, 512, 4, 2),
)


@triton.jit
def four(x, ROWS: tl.constexpr):
    """[ROWS, 4] -> its four columns: loaded together, 8 or 16 bytes at once."""
    even, odd = tl.split(x.reshape(ROWS, 2, 2))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@tuned(ONE_ROW_CONFIGS, ["N", "K", "SPLITS"])
@triton.jit
def _int4_one_row_kernel(
    x_ptr, words_ptr, scale_ptr, minimum_ptr, out_ptr, workspace_ptr, counters_ptr,
    N, K, stride_words, stride_scale, stride_group,
    RUN_WORDS: tl.constexpr, ALIGN: tl.constexpr, GROUP: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    WORDS: tl.constexpr = BLOCK_K // 8  # a word is 4 bytes, 8 nibbles; 4 words are the 32 weights of a run
    SPAN: tl.constexpr = GROUP if GROUP < BLOCK_K else BLOCK_K
    tile, split = tl.program_id(0), tl.program_id(1)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    my_n = tl.minimum(n, N - 1).to(tl.int64)[:, None]  # beyond the last row: the last again, not stored
    word = tl.arange(0, WORDS)
    word_rows = tl.multiple_of(words_ptr + my_n * stride_words, [ALIGN, ALIGN])
    group = tl.arange(0, BLOCK_K // SPAN)
    first, end = my_part_of_k(K, split, SPLITS, BLOCK_K)  # pyright: ignore[reportGeneralTypeIssues]
    sums = tl.zeros([BLOCK_N, WORDS], dtype=tl.float32)
    for k in tl.range(first, end, BLOCK_K, num_stages=STAGES):
        inside = word // 4 * 32 < end - k
        at = k // 32 * RUN_WORDS + word // 4 * RUN_WORDS + word % 4
        words = tl.load(word_rows + at[None, :], mask=inside[None, :], other=0, eviction_policy="evict_first")
        words = words.to(tl.uint32, bitcast=True)  # shifts bring in zeros
        groups = k // GROUP + group
        there = (groups * GROUP < end)[None, :]
        at_group = my_n * stride_scale + (groups * stride_group)[None, :]
        scale = tl.load(scale_ptr + at_group, mask=there, other=0.0).to(tl.float32)
        upper = words >> 16
        x_at = x_ptr + k + (word // 4 * 32 + word % 4 * 4)[:, None] + tl.arange(0, 4)[None, :]
        low = four(tl.load(x_at, mask=inside[:, None], other=0.0).to(tl.float32), WORDS)
        high = four(tl.load(x_at + 16, mask=inside[:, None], other=0.0).to(tl.float32), WORDS)
        x_sum = low[0] + low[1] + low[2] + low[3] + high[0] + high[1] + high[2] + high[3]
        products = tl.zeros([BLOCK_N, WORDS], dtype=tl.float32)
        for i in tl.static_range(8):
            # Nibble i of a word is half i % 2 of byte i // 2. Its bits are used where they lie: 16**i times too large.
            # Those that would reach into a float's exponent, from the sixth on, are taken 16 bits further down.
            x = high[i // 2] if i % 2 else low[i // 2]
            if i < 5:
                products += tiny_float(words, 15 << (4 * i)) * (x * (_UP * 0.0625**i))[None, :]
            else:
                products += tiny_float(upper, 15 << (4 * i - 16)) * (x * (_UP * 0.0625 ** (i - 4)))[None, :]
        sums += spread(scale * _BACK, BLOCK_N, BLOCK_K // SPAN, SPAN // 8) * products
        if minimum_ptr is None:
            offset = -8.0 * scale
        else:
            offset = tl.load(minimum_ptr + at_group, mask=there, other=0.0).to(tl.float32)
        sums += spread(offset, BLOCK_N, BLOCK_K // SPAN, SPAN // 8) * x_sum[None, :]
    acc = tl.sum(sums, axis=1)
    finish_split(acc, 0.0, out_ptr, n, n < N, workspace_ptr, counters_ptr, N, tile, split, SPLITS)


ROWS_CONFIGS = (
    _config(64, 64, 4, 3),
    _config(64, 128, 4, 3),
    _config(64, 256, 4, 3),
    _config(128, 128, 8, 3),
    _config(128, 128, 8, 4),
)


@triton.jit
def _int4_rows_kernel(
    x_ptr, packed_ptr, scale_ptr, minimum_ptr, out_ptr, workspace_ptr, counters_ptr,
    M, N, K, stride_packed, stride_scale, stride_group,
    RUN_BYTES: tl.constexpr, ALIGN: tl.constexpr, GROUP: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0), tl.program_id(1)
    m = tl.arange(0, 16)[None, :]  # a tensor core's smallest side; rows of x beyond M are zeros, and nobody reads them
    n = (tile * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    my_n = tl.minimum(n, N - 1).to(tl.int64)
    packed_rows = tl.multiple_of(packed_ptr + my_n * stride_packed, [ALIGN, ALIGN])
    minimum_rows = None if minimum_ptr is None else minimum_ptr + my_n * stride_scale
    first, end = my_part_of_k(K, split, SPLITS, BLOCK_K)  # pyright: ignore[reportGeneralTypeIssues]
    acc = int4_tile(
        x_ptr + m * K, packed_rows, scale_ptr + my_n * stride_scale, minimum_rows, m < M, first, end, stride_group,
        RUN_BYTES, GROUP, 16, BLOCK_N, BLOCK_K, STAGES,
    )  # fmt: skip
    inside = (n < N) & (m < M)
    finish_split(acc, 0.0, out_ptr, m * N + n, inside, workspace_ptr, counters_ptr, M * N, tile, split, SPLITS)


_tuned_rows_kernel = tuned(ROWS_CONFIGS, ["N", "K", "SPLITS"])(_int4_rows_kernel)


def int4_gemv(x: torch.Tensor, weight: Int4Weight) -> torch.Tensor:
    """x[...,K] . w[N,K] -> [...,N], in x's dtype (float32, bfloat16, float16), for at most 16 rows of x; sums in fp32.

    One row is multiplied by the exact weights, and may hold |x| up to 2**47; for more, the weight is rounded to x's
    dtype first. The same arguments give the same bits. The first call of a shape on a GPU tries the configurations.
    Raises ValueError for another K, dtype or device, and for more rows.
    """
    flat = check_arguments(x, weight)
    (n, k), m = weight.shape, flat.shape[0]
    if m > MAX_ROWS:
        raise ValueError(f"x{tuple(x.shape)} has {m} rows: at most {MAX_ROWS} are supported; int4_matmul takes more")
    out = x.new_empty(*x.shape[:-1], n)
    if out.numel() == 0:
        return out
    one_row = m == 1
    splits = count_splits(cdiv(n, TILE_N[one_row]), cdiv(k, TILE_K[one_row]), x.device, per_sm=4, least_steps=1)
    workspace, counters = split_buffers(splits, m * n, cdiv(n, LEAST_N), x.device)
    packed, scale = weight.packed, weight.scale
    run_bytes = packed.stride(1) if k > RUN else RUN // 2
    shared = {"ALIGN": weight.alignment, "GROUP": weight.group, "SPLITS": splits}
    if one_row:
        words = packed.view(torch.int32)  # the same bytes, 4 at a time
        launch(
            _int4_one_row_kernel, lambda meta: (cdiv(n, meta["BLOCK_N"]), splits),
            flat, words, scale, weight.minimum, out, workspace, counters,
            n, k, words.stride(0), scale.stride(0), scale.stride(1), RUN_WORDS=run_bytes // 4, **shared,
        )  # fmt: skip
        return out
    # fp32 has no tensor cores to feed: one modest tile, and nothing to try.
    narrow = x.dtype != torch.float32
    kernel, fixed = (_tuned_rows_kernel, {}) if narrow else (_int4_rows_kernel, ROWS_CONFIGS[0].all_kwargs())
    launch(
        kernel, lambda meta: (cdiv(n, meta["BLOCK_N"]), splits),
        flat, packed, scale, weight.minimum, out, workspace, counters,
        m, n, k, packed.stride(0), scale.stride(0), scale.stride(1), RUN_BYTES=run_bytes, **shared, **fixed,
    )  # fmt: skip
    return out
