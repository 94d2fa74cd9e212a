"""Products with weights of four bits, against the same product in bf16: goals G8 and G9."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch.nn import functional

from shardlab_kernels import int4, int4_gemv, int4_matmul
from shardlab_kernels.bench.case import Call, Case, Place, Problem
from shardlab_kernels.bench.goal import Bar, Goal

GROUP = 128
BF16 = "cuBLAS bf16"

G8 = {
    1: Goal("G8", Bar(of_copy=0.70, times={BF16: 2.8}), Bar(of_copy=0.88, times={BF16: 3.5})),
    16: Goal("G8", Bar(times={BF16: 2.2}), Bar(times={BF16: 3.2})),
}
G9 = Goal("G9", Bar(times={BF16: 0.7}), Bar(times={BF16: 0.95}))


def cases() -> Iterator[Case]:
    for m, goal in G8.items():
        yield Case("int4_gemv", f"m{m}_8192x8192_g128", partial(product, rows=m, ours=int4_gemv.int4_gemv), goal)
    for m in (512, 4096, 128):  # 128: few enough to undo the nibbles on the way
        make = partial(product, rows=m, ours=int4_matmul.int4_matmul)
        yield Case("int4_matmul", f"m{m}_8192x8192_g128", make, G9 if m >= 512 else None)


def product(place: Place, *, rows: int, ours: Call) -> Problem:
    """The rival multiplies with the dequantized weight, in bf16: the same numbers, of four times the bytes."""
    m, n, k = place.size(rows, min(rows, 33)), place.size(8192, 48), place.size(8192, 256)

    def draw(number: int) -> tuple[torch.Tensor, int4.Int4Weight, torch.Tensor]:
        weight = int4.quantize(place.randn(n, k, seed=2 * number, fan_in=k), GROUP)
        return place.randn(m, k, seed=2 * number + 1), weight, int4.dequantize(weight, torch.bfloat16)

    activations = (m * k + m * n) * 2
    return Problem(
        draw=draw,
        ours=lambda x, weight, dense: ours(x, weight),
        reference=lambda x, weight, dense: int4.reference(x.double(), weight),
        rivals={BF16: lambda x, weight, dense: functional.linear(x, dense)},
        moved_bytes=n * k // 2 + n * k // GROUP * 2 + activations,
        rival_bytes={BF16: n * k * 2 + activations},
        flops=2 * m * n * k,
    )
