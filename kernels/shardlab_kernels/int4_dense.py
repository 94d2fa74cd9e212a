"""A four-bit weight written out in half precision, for products of so many rows that this pass is a small part of them.

With 256 rows and more, arithmetic decides, and a vendor's GEMM with both factors in shared memory does it best; undoing
the nibbles on the way costs more there than writing the weight once. The price is memory for one weight at a time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.checks import FLOATS
from shardlab_kernels.int4 import RUN, Int4Weight, packed_bytes
from shardlab_kernels.launch import cdiv, check_device, launch, tuned


def moved_bytes(weight: Int4Weight, dtype: torch.dtype) -> int:
    """Read the packed weight, write N * K numbers. From tensors."""
    n, k = weight.shape
    return packed_bytes(weight) + n * k * dtype.itemsize


def _config(block: int, warps: int) -> triton.Config:
    return triton.Config({"BLOCK": block}, num_warps=warps)


@tuned([_config(1024, 4), _config(2048, 8), _config(2048, 4), _config(512, 2), _config(4096, 8)], ["K"])
@triton.jit
def _int4_dense_kernel(
    packed_ptr, scale_ptr, minimum_ptr, out_ptr, K, stride_packed, stride_scale, stride_group,
    RUN_BYTES: tl.constexpr, ALIGN: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    byte = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, run = byte < K // 2, byte // 16
    rows = tl.multiple_of(packed_ptr + row * stride_packed, [ALIGN])
    packed = tl.load(rows + run * RUN_BYTES + byte % 16, mask=inside, other=0, eviction_policy="evict_first")
    group = row * stride_scale + run * 32 // GROUP * stride_group
    scale = tl.load(scale_ptr + group, mask=inside, other=0.0).to(tl.float32)
    low, high = (packed & 15).to(tl.float32), (packed >> 4).to(tl.float32)
    if minimum_ptr is None:
        low, high = (low - 8.0) * scale, (high - 8.0) * scale
    else:
        minimum = tl.load(minimum_ptr + group, mask=inside, other=0.0).to(tl.float32)
        low, high = low * scale + minimum, high * scale + minimum
    out_ptr += row * K + run * 32 + byte % 16
    tl.store(out_ptr, low.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(out_ptr + 16, high.to(out_ptr.dtype.element_ty), mask=inside)


def int4_dense(weight: Int4Weight, dtype: torch.dtype) -> torch.Tensor:
    """-> w[N,K] in dtype, calculated in fp32 and rounded once: int4.dequantize in one pass. Raises ValueError."""
    if dtype not in FLOATS:
        raise ValueError(f"dtype={dtype}: float32, bfloat16 or float16 is needed")
    packed, scale = weight.packed, weight.scale
    device = check_device(packed=packed, scale=scale, minimum=weight.minimum)
    n, k = weight.shape
    out = torch.empty(n, k, dtype=dtype, device=device)
    if out.numel():
        launch(
            _int4_dense_kernel, lambda meta: (n, cdiv(k // 2, meta["BLOCK"])),
            packed, scale, weight.minimum, out, k, packed.stride(0), scale.stride(0), scale.stride(1),
            RUN_BYTES=packed.stride(1) if k > RUN else RUN // 2, ALIGN=weight.alignment, GROUP=weight.group,
        )  # fmt: skip
    return out
