"""Sample calls of the norms, RoPE and dense products, at sizes of real models: test_compile.py compiles them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from shardlab_kernels import matmul, rms_norm, rope, silu_mul, skinny

BF16, FP32 = torch.bfloat16, torch.float32
Calls = Iterator[tuple[str, Callable[[], object]]]


def calls() -> Calls:
    """-> (name, call) of each kernel, with CPU tensors: nothing runs, so nothing is drawn."""
    yield from _norms()
    yield from _rope()
    yield from _skinny()
    yield from _matmul()


def _norms() -> Calls:
    for d, rows in ((128, 4096), (576, 1024), (8192, 64), (16384, 64)):
        x, weight = torch.empty(rows, d, dtype=BF16), torch.empty(d, dtype=BF16)
        yield f"add_rms_norm D={d}", lambda x=x, weight=weight: rms_norm.add_rms_norm(x, x, weight, 1e-5)
    yield "rms_norm", lambda: rms_norm.rms_norm(x, weight, 1e-5)
    yield "add_rms_norm fp32", lambda: rms_norm.add_rms_norm(x.float(), x.float(), weight.float(), 1e-5)
    gate = torch.empty(64, 14336, dtype=BF16)
    yield "silu_mul", lambda: silu_mul.silu_mul(gate, gate)
    yield "silu_mul fp32", lambda: silu_mul.silu_mul(gate.float(), gate.float())


def _rope() -> Calls:
    for h, dtype in ((80, BF16), (128, BF16), (256, BF16), (128, FP32)):
        q, k = (torch.empty(2, 512, heads, h, dtype=dtype).transpose(1, 2) for heads in (32, 8))
        angles = torch.empty(512, h, dtype=dtype)
        yield f"rope H={h} {dtype}", lambda q=q, k=k, angles=angles: rope.rope_(q, k, angles, angles)
    q, k, angles = torch.empty(8, 32, 1, 128, dtype=BF16), torch.empty(8, 8, 1, 128, dtype=BF16), torch.empty(1, 128)
    yield "rope decode", lambda: rope.rope_(q, k, angles, angles)


def _skinny() -> Calls:
    w, bias = torch.empty(4096, 4096, dtype=BF16), torch.empty(4096, dtype=BF16)
    one, few = torch.empty(1, 4096, dtype=BF16), torch.empty(16, 4096, dtype=BF16)
    yield "skinny M=1 split bias", lambda: skinny.skinny_matmul(one, w, bias, num_splits=4)
    yield "skinny M=16 split bias", lambda: skinny.skinny_matmul(few, w, bias, num_splits=4)
    yield "skinny M=1 fp32", lambda: skinny.skinny_matmul(one.float(), w.float(), num_splits=1)
    yield "skinny M=16 fp32", lambda: skinny.skinny_matmul(few.float(), w.float(), num_splits=1)


def _matmul() -> Calls:
    x, w, bias = torch.empty(4096, 4096, dtype=BF16), torch.empty(8192, 4096, dtype=BF16), torch.empty(8192, dtype=BF16)
    yield "matmul bias", lambda: matmul.matmul(x, w, bias)
    yield "matmul fp32", lambda: matmul.matmul(x.float(), w.float())
