"""x[M,K] . w[N,K] -> [M,N] by tiles, as a GPU wants it: the kernel to read first.

Idea. One program computes a tile out[BLOCK_M, BLOCK_N]. It walks along K in steps of BLOCK_K: each step brings a tile
of x and a tile of w from global memory (HBM, behind the L2 cache) to shared memory, and multiplies them on the tensor
cores. The sum stays in registers, in fp32, until the last step.

Why tiles. A step reads (BLOCK_M + BLOCK_N) * BLOCK_K elements and does 2 * BLOCK_M * BLOCK_N * BLOCK_K operations. At 2
bytes an element the arithmetic intensity is

    BLOCK_M * BLOCK_N / (BLOCK_M + BLOCK_N)   operations a byte

64 x 64: 32; 128 x 128: 64; 128 x 256: 85. An H100 does about 300 operations in the time of one byte from HBM, so even
the largest tile would starve if every byte came from there. The L2 cache closes the gap, if programs that run at the
same time want the same tiles: that is what the grouped order of tiles is for (_place).

The tiles that are multiplied now, and those that are on their way, lie in shared memory side by side (num_stages):
copying and multiplying overlap. The copies are made by the GPU's copy engine (TMA), by a descriptor of the matrix;
it fills what lies beyond the edge with zeros, so that the loop needs no masks.

Sources: Triton tutorials 03 and 09 (matrix multiplication, persistent matmul); why blocks: Hong and Kung 1981, doi
10.1145/800076.802486; roofline: Williams et al. 2009, doi 10.1145/1498765.1498785.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from shardlab_kernels.checks import check_dtype, sizes, wide
from shardlab_kernels.dot import dot
from shardlab_kernels.launch import cdiv, check_device, launch, next_power_of_2, num_multiprocessors, tuned

GROUP_M: tl.constexpr = tl.constexpr(8)


def reference(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x[...,K] . w[N,K] + bias[N] -> [...,N], summed in fp32 (fp64 for fp64). Moves x, w, bias and the result once."""
    out = wide(x) @ wide(w).mT
    return (out if bias is None else out + wide(bias)).to(x.dtype)


def moved_bytes(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> int:
    """From tensors. What must be moved: read x, w and bias once, write the result. L2 serves the tiles' other reads."""
    result = x.shape[:-1].numel() * w.shape[0] * x.element_size()
    return x.nbytes + w.nbytes + result + (bias.nbytes if bias is not None else 0)


def flops(m: int, n: int, k: int) -> int:
    """From sizes: a multiplication and an addition for each of M * N * K terms."""
    return 2 * m * n * k


def intensity(block_m: int, block_n: int, element_size: int) -> float:
    """Operations for each byte that a step of one tile reads; BLOCK_K cancels out."""
    return 2 * block_m * block_n / ((block_m + block_n) * element_size)


@triton.jit
def _place(tile, tiles_m, tiles_n):
    """-> (row, column) of a tile's place: down GROUP_M rows, then one column on.

    The 132 programs of an H100 work on consecutive tiles. In plain row order those lie in about one row of tiles, and
    want one row of x and all of w. In this order they lie in a near-square of 8 x 17, and want 8 + 17 rows and columns:
    the rest of their reads are L2 hits.

        row order:  0  1  2  3      grouped, GROUP_M=2:  0  2  4  6
                    4  5  6  7                           1  3  5  7
    """
    in_group = GROUP_M * tiles_n
    first = tile // in_group * GROUP_M
    height = tl.minimum(tiles_m - first, GROUP_M)  # the last group may be lower
    inside = tile % in_group
    return first + inside % height, inside // height


def _describe_tiles(arguments: dict[str, Any]) -> None:
    """Before a launch: the copy engine's tiles take the sizes of the configuration."""
    arguments["x_tiles"].block_shape = [arguments["BLOCK_M"], arguments["BLOCK_K"]]
    arguments["w_tiles"].block_shape = [arguments["BLOCK_N"], arguments["BLOCK_K"]]


def _config(block_m: int, block_n: int, block_k: int, per_sm: int, warps: int, stages: int) -> triton.Config:
    blocks = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "PER_SM": per_sm}
    return triton.Config(blocks, num_warps=warps, num_stages=stages, pre_hook=_describe_tiles)


# A stage holds (BLOCK_M + BLOCK_N) * BLOCK_K elements of shared memory; the sums take BLOCK_M * BLOCK_N fp32 registers:
# 128 a thread for 128 x 256 on 8 warps, half of what a thread may have.
HALF_CONFIGS = [
    _config(64, 64, 64, 2, 4, 4),
    _config(64, 32, 64, 3, 4, 6),  # few rows: small tiles keep more multiprocessors reading w
    _config(64, 128, 64, 2, 4, 4),
    _config(128, 128, 64, 2, 4, 3),
    _config(128, 256, 64, 1, 8, 3),
    _config(128, 256, 64, 1, 8, 4),
]
FP32_CONFIGS = [_config(64, 64, 32, 1, 8, 3)]  # no tensor core multiplies true fp32: one modest tile will do


@triton.jit
def _matmul_kernel(
    x_tiles, w_tiles, bias_ptr, out_ptr, M, N, K, m_bucket,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PER_SM: tl.constexpr,
):  # fmt: skip
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    # There are as many programs as the GPU holds at once, and each takes every num_programs-th tile ("persistent"): the
    # first copies of its next tile are under way while it stores the last one (flatten makes one loop of the two).
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        tile_m, tile_n = _place(tile, tiles_m, tiles_n)  # pyright: ignore[reportGeneralTypeIssues]
        acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
        for step in range(tl.cdiv(K, BLOCK_K)):
            x = x_tiles.load([tile_m * BLOCK_M, step * BLOCK_K])
            w = w_tiles.load([tile_n * BLOCK_N, step * BLOCK_K])
            acc = dot(x, w.T, acc)
        m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
        n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
        if bias_ptr is not None:  # once, in fp32, before the only rounding
            acc += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
        inside = (m < M)[:, None] & (n < N)[None, :]
        tl.store(out_ptr + m.to(tl.int64)[:, None] * N + n[None, :], acc.to(out_ptr.dtype.element_ty), mask=inside)


_half_kernel = tuned(HALF_CONFIGS, ["m_bucket", "N", "K"])(_matmul_kernel)
_fp32_kernel = tuned(FP32_CONFIGS, ["m_bucket", "N", "K"])(_matmul_kernel)


def _readable(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix as the copy engine can read it: each row starts at a multiple of 16 bytes. A copy only if it must."""
    aligned = matrix.stride(0) * matrix.element_size() % 16 == 0 and matrix.data_ptr() % 16 == 0
    if matrix.stride(1) == 1 and aligned and matrix.stride(0) >= matrix.shape[1]:
        return matrix
    return torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % (16 // matrix.element_size()))).contiguous()


def matmul(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x[...,K] . w[N,K] (+ bias[N]) -> [...,N], in x's dtype. Sums in fp32, rounded once.

    Any sizes and strides; where rows of x or w are not 16-byte aligned (K odd, say) a padded copy is made first.
    Built for sm_90. Older GPUs have no copy engine: the same code compiles to plain loads there, and runs slower.
    Raises ValueError for shapes, dtypes or devices that do not fit.
    """
    size = sizes(x=(x, "... K"), w=(w, "N K"), bias=(bias, "N"))
    dtype = check_dtype(x=x, w=w, bias=bias)
    device = check_device(x=x, w=w, bias=bias)
    m, n, k = x.shape[:-1].numel(), size["N"], size["K"]
    out = x.new_empty(*x.shape[:-1], n)
    if out.numel() == 0:
        return out
    if k == 0:  # a sum of nothing
        return out.zero_() if bias is None else out.copy_(bias)
    rows, w = _readable(x.reshape(m, k)), _readable(w)
    x_tiles, w_tiles = (TensorDescriptor.from_tensor(matrix, [1, 16]) for matrix in (rows, w))
    multiprocessors = num_multiprocessors(device)

    def grid(meta: dict[str, Any]) -> tuple[int, ...]:
        tiles = cdiv(m, meta["BLOCK_M"]) * cdiv(n, meta["BLOCK_N"])
        return (min(tiles, multiprocessors * meta["PER_SM"]),)

    kernel = _fp32_kernel if dtype == torch.float32 else _half_kernel
    bias = bias if bias is None else bias.contiguous()
    launch(kernel, grid, x_tiles, w_tiles, bias, out, m, n, rows.shape[1], next_power_of_2(m))
    return out
