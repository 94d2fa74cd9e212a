"""Routing, moving rows to their experts and back, and the experts' products: goal G7."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch.nn import functional

from shardlab_kernels import grouped_matmul, moe_permute, moe_route, moe_sort
from shardlab_kernels.bench.case import COMPILED, EAGER, Call, Case, Place, Problem, compiled, missing, shape
from shardlab_kernels.bench.goal import Bar, Goal

GROUPED = "torch._grouped_mm"
CHOSEN = 8

G7_MOVE = Goal("G7", Bar(of_copy=0.75), Bar(of_copy=0.90))
G7 = Goal("G7", Bar(times={GROUPED: 0.9}), Bar(times={GROUPED: 1.05}))
G7_MANY = Goal("G7", Bar(times={GROUPED: 0.7}), Bar(times={GROUPED: 0.95}))


def cases() -> Iterator[Case]:
    # Mixtral 8x7B's up projection; 64 experts of Qwen3-30B-A3B's size; its 128; 512.
    for experts, rows, d, f in ((8, 16384, 4096, 14336), (64, 65536, 2048, 768), (128, 65536, 2048, 768)):
        make = partial(grouped, num_experts=experts, num_rows=rows, d=d, f=f)
        yield Case("grouped_matmul", f"e{experts}_{rows}x{d}x{f}", make, G7)
    yield Case("moe_permute", "8192x4096_top8_e128", move, G7_MOVE)
    make = partial(grouped, num_experts=512, num_rows=65536, d=2048, f=768)
    yield Case("grouped_matmul", "e512_65536x2048x768", make, G7_MANY)
    yield Case("route", "16384_top8_e128", choose)
    yield Case("sort_by_expert", "16384_top8_e128", sort)


def grouped(place: Place, *, num_experts: int, num_rows: int, d: int, f: int) -> Problem:
    """Every row chose an expert at random: groups of nearly one size, as a balanced router makes them."""
    e, m = place.size(num_experts, min(num_experts, 5)), place.size(num_rows, 70)
    d, f = place.size(d, 32), place.size(f, 48)
    counts = torch.randint(e, (m,), generator=torch.Generator().manual_seed(0)).bincount(minlength=e)
    ends = counts.cumsum(0).int()
    offsets = functional.pad(ends, (1, 0)).to(place.device)
    sizes = counts.tolist()

    def draw(number: int) -> tuple[torch.Tensor, ...]:
        rows = place.randn(m, d, seed=2 * number)
        return rows, place.randn(e, f, d, seed=2 * number + 1, fan_in=d), offsets.clone()

    def loop(rows: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return torch.cat([part @ one.T for part, one in zip(rows.split(sizes), w, strict=True)])

    def reference(rows: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        parts = zip(rows.split(sizes), w, strict=True)
        return torch.cat([part.double() @ one.double().T for part, one in parts])

    return Problem(
        draw=draw,
        ours=grouped_matmul.grouped_matmul,
        reference=reference,
        rivals={GROUPED: torch_grouped(), "cuBLAS, a call an expert": loop},
        moved_bytes=grouped_matmul.moved_bytes(
            shape(m, d), shape(e, f, d), experts_used=sum(size > 0 for size in sizes)
        ),
        flops=grouped_matmul.flops(shape(m, d), shape(e, f, d)),
    )


def torch_grouped() -> Call:
    """torch's grouped GEMM: x[M,K] . w[E,K,N], the ends of the groups in int32."""
    grouped_mm = getattr(torch, "_grouped_mm", None)
    if grouped_mm is None:
        return missing(f"torch {torch.__version__} has no torch._grouped_mm")
    return lambda rows, w, offsets: grouped_mm(rows, w.mT, offs=offsets[1:])


def move(place: Place) -> Problem:
    """To 128 experts and back, without what they would do: 537 MB of rows written, and read again."""
    t, d, e = place.size(8192, 9), place.size(4096, 40), place.size(128, 10)
    k = place.size(CHOSEN, 3)

    def draw(number: int) -> tuple[torch.Tensor, moe_sort.Order, torch.Tensor]:
        logits = place.randn(t, e, seed=2 * number, dtype=torch.float32)
        weights, experts = logits.softmax(-1).topk(k)
        return place.randn(t, d, seed=2 * number + 1), moe_sort.sort_by_expert(experts.int(), e), weights

    def ours(x: torch.Tensor, order: moe_sort.Order, weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = moe_permute.permute(x, order)
        return moe_permute.unpermute(rows, order, weights), rows

    # The rows are results too: else torch.compile would see that they come back, and move nothing.
    def index(x: torch.Tensor, order: moe_sort.Order, weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = x[order.token]
        return (rows[order.position] * weights[..., None].to(x.dtype)).sum(1), rows

    x, rows = shape(t, d), shape(t * k, d)
    return Problem(
        draw=draw,
        ours=ours,
        reference=lambda x, order, weights: index(x.double(), order, weights),
        rivals={EAGER: index, COMPILED: compiled(index, place)},
        moved_bytes=moe_permute.moved_bytes_permute(x, k) + moe_permute.moved_bytes_unpermute(rows, k),
    )


def choose(place: Place) -> Problem:
    """The router of 16K tokens. Compared by the weights, which are in order; a tie may choose either expert."""
    t, e, k = place.size(16384, 9), place.size(128, 10), place.size(CHOSEN, 3)

    def in_torch(logits: torch.Tensor) -> torch.Tensor:
        chosen, _ = logits.softmax(-1).topk(k)
        return chosen / chosen.sum(-1, keepdim=True)

    return Problem(
        draw=lambda number: (place.randn(t, e, seed=number, dtype=torch.float32),),
        ours=lambda logits: moe_route.route(logits, k)[:1],
        reference=lambda logits: in_torch(logits.double()),
        rivals={EAGER: in_torch, COMPILED: compiled(in_torch, place)},
        moved_bytes=moe_route.moved_bytes(shape(t, e, dtype=torch.float32), k),
        tolerance=1e-5,
    )


def sort(place: Place) -> Problem:
    """The order of 131072 assignments. Integers: any difference is an error."""
    t, e, k = place.size(16384, 100), place.size(128, 10), place.size(CHOSEN, 3)

    def draw(number: int) -> tuple[torch.Tensor]:
        return (place.randn(t, e, seed=number, dtype=torch.float32).topk(k).indices.int(),)

    def ours(experts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        order = moe_sort.sort_by_expert(experts, e)
        return order.offsets, order.token, order.position

    def in_torch(experts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = experts.flatten()
        by_expert, order = flat.sort(stable=True)
        offsets = torch.searchsorted(by_expert, torch.arange(e + 1, device=flat.device, dtype=torch.int32))
        rows = torch.arange(t * k, device=flat.device)
        return offsets, order // k, torch.empty_like(order).scatter_(0, order, rows).view(t, k)

    def reference(experts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        order = moe_sort.reference(experts, e)
        return order.offsets.double(), order.token.double(), order.position.double()

    return Problem(
        draw=draw,
        ours=ours,
        reference=reference,
        rivals={EAGER: in_torch, COMPILED: compiled(in_torch, place)},
        moved_bytes=moe_sort.moved_bytes(torch.empty(t, k, dtype=torch.int32, device="meta"), e),
        tolerance=0.0,
    )
