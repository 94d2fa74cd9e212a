"""Norms, rotary positions, the gated product and dense matmuls: goals G5, G6 and G10."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch.nn import functional

from shardlab_kernels import matmul, rms_norm, rope, silu_mul, skinny
from shardlab_kernels.bench.case import COMPILED, EAGER, Call, Case, Place, Problem, compiled, shape
from shardlab_kernels.bench.goal import Bar, Goal

EPS = 1e-5
CUBLAS = "cuBLAS"
TORCH_NORM = "torch rms_norm"

G5 = Goal("G5", Bar(of_copy=0.90, times={EAGER: 2.5}), Bar(of_copy=0.97, times={EAGER: 3.0}))
G6 = Goal("G6", Bar(of_copy=0.85), Bar(of_copy=0.95))
G10 = Goal("G10", Bar(of_gemm=0.80), Bar(of_gemm=0.95))


def cases() -> Iterator[Case]:
    yield Case("add_rms_norm", "8192x8192", add_norm, G5)
    yield Case("rms_norm", "8192x8192", norm)
    yield Case("rope_", "b4_s4k_n32_k8_d128", rotate, G6)
    yield Case("silu_mul", "8192x14336", gated, G6)
    yield Case("matmul", "8192x8192x8192", square, G10)
    for m in (1, 16):
        yield Case("skinny_matmul", f"m{m}_8192x8192", partial(thin, rows=m))


def add_norm(place: Place) -> Problem:
    """x, residual and both results are 134 MB each."""
    t, d = place.size(8192, 5), place.size(8192, 100)

    def draw(number: int) -> tuple[torch.Tensor, ...]:
        x, residual = (place.randn(t, d, seed=3 * number + i) for i in range(2))
        return x, residual, 1 + place.randn(d, seed=3 * number + 2, fan_in=100)

    def torch_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        total = x + residual
        return functional.rms_norm(total, (d,), weight, EPS), total

    def eager(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return rms_norm.add_reference(x, residual, weight, EPS)

    return Problem(
        draw=draw,
        ours=lambda x, residual, weight: rms_norm.add_rms_norm(x, residual, weight, EPS),
        reference=lambda *inputs: eager(*(x.double() for x in inputs)),
        rivals={EAGER: eager, TORCH_NORM: torch_norm, COMPILED: compiled(eager, place)},
        moved_bytes=rms_norm.add_moved_bytes(shape(t, d), shape(d)),
    )


def norm(place: Place) -> Problem:
    t, d = place.size(8192, 5), place.size(8192, 100)

    def draw(number: int) -> tuple[torch.Tensor, ...]:
        return place.randn(t, d, seed=2 * number), 1 + place.randn(d, seed=2 * number + 1, fan_in=100)

    def eager(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm.reference(x, weight, EPS)

    return Problem(
        draw=draw,
        ours=lambda x, weight: rms_norm.rms_norm(x, weight, EPS),
        reference=lambda x, weight: eager(x.double(), weight.double()),
        rivals={
            EAGER: eager,
            TORCH_NORM: lambda x, weight: functional.rms_norm(x, (d,), weight, EPS),
            COMPILED: compiled(eager, place),
        },
        moved_bytes=rms_norm.moved_bytes(shape(t, d), shape(d)),
    )


def rotate(place: Place) -> Problem:
    """q and k of a prefill of 16K tokens, in place: 32 and 8 heads of 128, 168 MB."""
    b, s, h = place.size(4, 1), place.size(4096, 7), place.size(128, 16)
    n, kv = place.size(32, 3), place.size(8, 2)
    angle = torch.arange(s, device=place.device)[:, None] * 1e4 ** -(
        torch.arange(h, device=place.device) % (h // 2) * 2 / h
    )

    def draw(number: int) -> tuple[torch.Tensor, ...]:
        q, k = place.randn(b, n, s, h, seed=2 * number), place.randn(b, kv, s, h, seed=2 * number + 1)
        return q, k, angle.cos().bfloat16(), angle.sin().bfloat16()

    def ours(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rope.rope_(q, k, cos, sin)
        return q, k

    return Problem(
        draw=draw,
        ours=ours,
        reference=lambda *inputs: rope.reference(*(x.double() for x in inputs)),
        rivals={EAGER: rope.reference, COMPILED: compiled(rope.reference, place)},
        moved_bytes=rope.moved_bytes(shape(b, n, s, h), shape(b, kv, s, h), shape(s, h)),
        in_place=True,
    )


def gated(place: Place) -> Problem:
    """The middle of the MLP of Llama 3 8B for 8192 tokens."""
    t, f = place.size(8192, 5), place.size(14336, 100)
    return Problem(
        draw=lambda number: tuple(place.randn(t, f, seed=2 * number + i) for i in range(2)),
        ours=silu_mul.silu_mul,
        reference=lambda gate, up: silu_mul.reference(gate.double(), up.double()),
        rivals={EAGER: silu_mul.reference, COMPILED: compiled(silu_mul.reference, place)},
        moved_bytes=silu_mul.moved_bytes(shape(t, f)),
    )


def square(place: Place) -> Problem:
    return _product(place, place.size(8192, 40), place.size(8192, 48), place.size(8192, 64), matmul.matmul)


def thin(place: Place, *, rows: int) -> Problem:
    """Decode: w is read once for a few rows, and that is all of the time."""
    return _product(place, rows, place.size(8192, 48), place.size(8192, 64), skinny.skinny_matmul)


def _product(place: Place, m: int, n: int, k: int, ours: Call) -> Problem:
    return Problem(
        draw=lambda number: (
            place.randn(m, k, seed=2 * number),
            place.randn(n, k, seed=2 * number + 1, fan_in=k),
        ),
        ours=ours,
        reference=lambda x, w: x.double() @ w.double().T,
        rivals={CUBLAS: functional.linear},
        moved_bytes=matmul.moved_bytes(shape(m, k), shape(n, k)),
        flops=matmul.flops(m, n, k),
    )
