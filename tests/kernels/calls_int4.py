"""Sample calls of the four-bit products, at sizes of real models: test_compile.py compiles them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from shardlab_kernels.int4 import Int4Weight, from_q4_1
from shardlab_kernels.int4_dense import int4_dense
from shardlab_kernels.int4_gemv import int4_gemv
from shardlab_kernels.int4_matmul import int4_matmul


def calls() -> Iterator[tuple[str, Callable[[], object]]]:
    """-> (name, call) of each kernel, with CPU tensors: nothing runs, so nothing is drawn."""
    g128, g32 = _weight(8192, 8192, 128, False), _weight(4096, 4096, 32, True)
    blocks = from_q4_1(torch.empty(576, 1536 // 32 * 20, dtype=torch.uint8), 1536)  # ffn_down of SmolLM2-135M
    for name, weight in (("g128", g128), ("g32 minimum", g32), ("Q4_1", blocks)):
        one, few, many = (torch.empty(m, weight.shape[1], dtype=torch.bfloat16) for m in (1, 16, 200))
        yield f"int4 gemv M=1 {name}", lambda x=one, w=weight: int4_gemv(x, w)
        yield f"int4 gemv M=16 {name}", lambda x=few, w=weight: int4_gemv(x, w)
        yield f"int4 matmul {name}", lambda x=many, w=weight: int4_matmul(x, w)
        yield f"int4 dense {name}", lambda w=weight: int4_dense(w, torch.bfloat16)
    one, few, many = (torch.empty(m, 8192) for m in (1, 16, 200))
    yield "int4 gemv M=1 fp32", lambda: int4_gemv(one, g128)
    yield "int4 gemv M=16 fp32", lambda: int4_gemv(few, g128)
    yield "int4 matmul fp32", lambda: int4_matmul(many, g128)
    yield "int4 matmul fp16", lambda: int4_matmul(many.half(), g128)


def _weight(n: int, k: int, group: int, minimum: bool) -> Int4Weight:
    scale = torch.empty(n, k // group, dtype=torch.float16)
    packed = torch.empty(n, k // 32, 16, dtype=torch.uint8)
    return Int4Weight(packed, scale, torch.empty_like(scale) if minimum else None, group)
