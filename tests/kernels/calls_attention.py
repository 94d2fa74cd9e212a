"""Sample calls of the attention kernels, for the compiler: sizes and dtypes of real models. Nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from shardlab_kernels.flash_attention import flash_attention
from shardlab_kernels.flash_attention_packed import flash_attention_packed
from shardlab_kernels.flash_decode import flash_decode
from shardlab_kernels.merge import merge

BF16, FP32 = torch.bfloat16, torch.float32


def calls() -> Iterator[tuple[str, Callable[[], object]]]:
    """-> (name, call): every kernel of the area, each list of configurations once."""
    for h, dtype in ((128, BF16), (256, BF16), (64, FP32), (256, FP32)):
        yield f"flash_attention H={h} {dtype}", prefill(h, dtype, {})
    lengths = torch.full((2,), 1000, dtype=torch.int32)
    yield "flash_attention H=64 window kv_lengths", prefill(64, BF16, {"window": 512, "kv_lengths": lengths})
    yield f"flash_attention_packed H=80 {FP32}", packed(80, FP32)
    for n, kv, h, dtype in ((32, 8, 128, BF16), (8, 4, 256, BF16), (64, 1, 256, BF16)):
        yield f"flash_decode N={n} K={kv} H={h} {dtype}", decode(n, kv, h, dtype, 0)
    for h in (128, 256):
        yield f"flash_decode H={h} {FP32}", decode(32, 8, h, FP32, 0)
    yield "flash_decode H=128 pages of 16", decode(32, 8, 128, BF16, 16)
    yield "merge of 33 splits", lambda: merge(torch.empty(33, 1, 32, 128), torch.empty(33, 1, 32), BF16)
    outs = torch.empty(2, 1, 32, 4096, 128, dtype=BF16)
    yield "merge of 2 ring steps", lambda: merge(outs, torch.empty(outs.shape[:-1]), FP32)


def prefill(h: int, dtype: torch.dtype, options: dict) -> Callable[[], object]:
    q, k, v = (torch.empty(2, 2048, heads, h, dtype=dtype).transpose(1, 2) for heads in (8, 2, 2))
    return lambda: flash_attention(q, k, v, **options)


def packed(h: int, dtype: torch.dtype) -> Callable[[], object]:
    q, k, v = (torch.empty(2048, heads, h, dtype=dtype) for heads in (8, 2, 2))
    cu = torch.tensor([0, 48, 2048], dtype=torch.int32)
    return lambda: flash_attention_packed(q, k, v, cu, cu, 2000)


def decode(n: int, kv: int, h: int, dtype: torch.dtype, page: int) -> Callable[[], object]:
    b, c = 4, 8192
    q, lengths = torch.empty(b, n, h, dtype=dtype), torch.zeros(b, dtype=torch.int32)
    shape = (b * c // page, kv, page, h) if page else (b, kv, c, h)
    k, v = torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)
    table = torch.zeros(b, c // page, dtype=torch.int32) if page else None
    return lambda: flash_decode(q, k, v, lengths, block_table=table)
