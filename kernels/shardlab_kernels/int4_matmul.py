"""x . w for many rows of x (prefill) with w in four bits: a tile of w becomes bf16 in registers, on its way to the dot.

Prefill is bound by arithmetic, so nothing is won over a weight in bf16 but its memory; the aim is to lose little. The
weight is the left operand, which tensor cores take from registers, so its 16-bit form is never stored anywhere: as in
Machete (Wilkinson 2024, vLLM). Low and high nibbles meet different columns of x: two dots, and nothing is interleaved.
From DENSE_ROWS rows on, the weight is written out instead (int4_dense.py), and a vendor's GEMM multiplies.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.checks import check_dtype
from shardlab_kernels.dot import dot
from shardlab_kernels.int4 import RUN, Int4Weight, flops, moved_bytes, reference, spread
from shardlab_kernels.int4_dense import int4_dense
from shardlab_kernels.int4_unpack import nibbles, weights
from shardlab_kernels.launch import cdiv, check_device, launch, tuned

__all__ = ["flops", "int4_matmul", "moved_bytes", "reference"]

DENSE_ROWS = 256
TILES_TOGETHER = 8  # tiles of rows that share what they read of the weight in L2


@triton.jit
def int4_tile(
    x_rows, packed_rows, scale_rows, minimum_rows, inside_m, first, end, stride_group,
    RUN_BYTES: tl.constexpr, GROUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """w[n, first:end] . x[m, first:end] -> fp32[BLOCK_N, BLOCK_M], the result transposed.

    x_rows [1, BLOCK_M], packed_rows [BLOCK_N, 1], scale_rows and minimum_rows (or None) [BLOCK_N, 1] point to where
    rows begin. first is a multiple of BLOCK_K. Where a block lies within one group and there is no minimum, it is
    q - 8 that is multiplied, which is exact, and the sums are scaled.

    A block's sums are added to the accumulator outside of the dot. With the accumulator in it, Triton (3.6, 3.7) leaves
    the last dot of a turn running while the next turn's weights are written to the registers that it reads: on an H200
    some tiles came out wrong by a tenth.
    """
    dtype: tl.constexpr = x_rows.dtype.element_ty
    SPAN: tl.constexpr = GROUP if GROUP < BLOCK_K else BLOCK_K  # columns of a block that share a scale
    nibble = tl.arange(0, BLOCK_K // 2)
    byte = nibble // 16 * RUN_BYTES + nibble % 16
    low_column = nibble // 16 * 32 + nibble % 16  # of x, for a byte's low half; the high half's is 16 further
    group = tl.arange(0, BLOCK_K // SPAN)
    acc = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)
    for k in tl.range(first, end, BLOCK_K, num_stages=STAGES):
        inside = nibble // 16 * 32 < end - k  # whole runs: where the low half is inside, so is the high half
        x_at = x_rows + k + low_column[:, None]
        x_inside = inside[:, None] & inside_m
        x_low = tl.load(x_at, mask=x_inside, other=0.0)
        x_high = tl.load(x_at + 16, mask=x_inside, other=0.0)
        packed = tl.load(packed_rows + k // 32 * RUN_BYTES + byte[None, :], mask=inside[None, :], other=0)
        # These go to registers without a copy ahead of time (fp16 is too narrow for it), but 16 of a row's scales
        # come in one 32-byte sector, and all but the first find it in L1.
        groups = k // GROUP + group
        there = (groups * GROUP < end)[None, :]
        scale = tl.load(scale_rows + (groups * stride_group)[None, :], mask=there, other=0.0)
        sums = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)
        if SPAN == BLOCK_K and minimum_rows is None:
            low, high = nibbles(packed, dtype)
            acc += dot(high, x_high, dot(low, x_low, sums)) * scale.to(tl.float32)
        else:
            offset = None
            if minimum_rows is not None:
                # q * scale + minimum = (q - 8) * scale + what is left, which is small: so its rounding does no harm.
                minimum = tl.load(minimum_rows + (groups * stride_group)[None, :], mask=there, other=0.0)
                offset = (minimum.to(tl.float32) + 8.0 * scale.to(tl.float32)).to(dtype)
                offset = spread(offset, BLOCK_N, BLOCK_K // SPAN, SPAN // 2)
            scale = spread(scale.to(dtype), BLOCK_N, BLOCK_K // SPAN, SPAN // 2)
            low, high = weights(packed, scale, offset, dtype)
            acc += dot(high, x_high, dot(low, x_low, sums))
    return acc


def _config(block_m: int, block_n: int, block_k: int, warps: int, stages: int) -> triton.Config:
    blocks = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "STAGES": stages}
    return triton.Config(blocks, num_warps=warps, num_stages=stages)


CONFIGS = (
    _config(64, 64, 64, 4, 3),
    _config(64, 128, 64, 4, 4),
    _config(64, 128, 128, 8, 3),
    _config(128, 128, 64, 8, 4),
    _config(128, 128, 128, 8, 3),
)


@triton.jit
def _int4_matmul_kernel(
    x_ptr, packed_ptr, scale_ptr, minimum_ptr, out_ptr, M, N, K, stride_packed, stride_scale, stride_group, M_CLASS,
    RUN_BYTES: tl.constexpr, ALIGN: tl.constexpr, GROUP: tl.constexpr, TILES_TOGETHER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    tile = tl.program_id(0)
    tile_m, tile_n = tl.swizzle2d(tile // tiles_n, tile % tiles_n, tiles_m, tiles_n, TILES_TOGETHER)
    m = (tile_m * BLOCK_M + tl.arange(0, BLOCK_M))[None, :]
    n = (tile_n * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    # Rows beyond the last read the last one again; nobody stores what they give.
    my_m, my_n = tl.minimum(m, M - 1).to(tl.int64), tl.minimum(n, N - 1).to(tl.int64)
    # Says how many bytes one load may take. A Q4_1 block has 20: no load may be wider than 4.
    packed_rows = tl.multiple_of(packed_ptr + my_n * stride_packed, [ALIGN, ALIGN])
    scale_rows = scale_ptr + my_n * stride_scale
    minimum_rows = None if minimum_ptr is None else minimum_ptr + my_n * stride_scale
    acc = int4_tile(
        x_ptr + my_m * K, packed_rows, scale_rows, minimum_rows, m < M, 0, K, stride_group,
        RUN_BYTES, GROUP, BLOCK_M, BLOCK_N, BLOCK_K, STAGES,
    )  # fmt: skip
    out = out_ptr + m.to(tl.int64) * N + n
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=(m < M) & (n < N))


_tuned_kernel = tuned(CONFIGS, ["M_CLASS", "N", "K"])(_int4_matmul_kernel)


def check_arguments(x: torch.Tensor, weight: Int4Weight) -> torch.Tensor:
    """-> x as contiguous [M,K]. Raises ValueError for what the kernels cannot multiply."""
    check_dtype(x=x)
    n, k = weight.shape
    if x.dim() == 0 or x.shape[-1] != k:
        raise ValueError(f"x{tuple(x.shape)} and weight({n}, {k}): x[...,{k}] is needed")
    check_device(x=x, packed=weight.packed, scale=weight.scale, minimum=weight.minimum)
    return x.reshape(-1, k).contiguous()


def int4_matmul(x: torch.Tensor, weight: Int4Weight) -> torch.Tensor:
    """x[...,K] . w[N,K] -> [...,N], in x's dtype (float32, bfloat16, float16), summed in fp32, for any number of rows.

    In half precision, scales and weights are rounded to x's dtype where a group has a minimum or is short; other groups
    are exact up to 255 rows. Up to 16 rows are int4_gemv's: faster there. The first
    call of a shape on a GPU tries the configurations. Raises ValueError for another K, dtype or device.
    """
    flat = check_arguments(x, weight)
    (n, k), m = weight.shape, flat.shape[0]
    if m >= DENSE_ROWS and x.dtype != torch.float32:
        return torch.nn.functional.linear(x, int4_dense(weight, x.dtype))
    out = x.new_empty(*x.shape[:-1], n)
    if out.numel() == 0:
        return out
    # fp32 has no tensor cores to feed: one modest tile, and nothing to try.
    kernel, meta = (_int4_matmul_kernel, CONFIGS[0].all_kwargs()) if x.dtype == torch.float32 else (_tuned_kernel, {})
    launch(
        kernel, lambda meta: (cdiv(m, meta["BLOCK_M"]) * cdiv(n, meta["BLOCK_N"]),),
        flat, weight.packed, weight.scale, weight.minimum, out, m, n, k,
        weight.packed.stride(0), weight.scale.stride(0), weight.scale.stride(1), triton.next_power_of_2(m),
        RUN_BYTES=weight.packed.stride(1) if k > RUN else 16, ALIGN=weight.alignment, GROUP=weight.group,
        TILES_TOGETHER=TILES_TOGETHER, **meta,
    )  # fmt: skip
    return out
