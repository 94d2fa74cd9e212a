"""Kernels that communicate, over virtual ranks on this one GPU: goals G11, G12 and G13.

What is timed is the kernel with its barriers, at the speed of this GPU's memory: no NVLink is in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from shardlab_kernels import all_reduce, all_reduce_rms_norm, all_to_all, barrier, moe_sort, rms_norm
from shardlab_kernels.bench.case import Case, Place, Problem, shape
from shardlab_kernels.bench.goal import Bar, Goal
from shardlab_kernels.symmetric_memory import MAX_BLOCKS, SLOT_UNIT, SymmetricMemory

UNFUSED = "one-shot, then norm"
INDEX = "torch index and copy"

G11_BARRIER = Goal("G11", Bar(at_most_s=10e-6), Bar(at_most_s=4e-6))
G11_ONE_SHOT = Goal("G11", Bar(at_most_s=15e-6), Bar(at_most_s=7e-6))
G11_TWO_SHOT = Goal("G11", Bar(at_most_s=25e-6), Bar(at_most_s=12e-6))
G12 = Goal("G12", Bar(times={UNFUSED: 1.2}), Bar(times={UNFUSED: 1.6}))
G13 = Goal("G13", Bar(of_copy=0.60, times={INDEX: 3.0}), Bar(of_copy=0.80, times={INDEX: 6.0}))
EPS = 1e-5


def cases() -> Iterator[Case]:
    for rows in (8, 64):
        yield Case("all_reduce_rms_norm", f"ranks8_{rows}x8192", partial(reduce_norm, ranks=8, rows=rows), G12, 8)
    yield Case("all_to_all", "ranks8_128x7168_top8_e256", partial(exchange, ranks=8), G13, 8)
    for n in (8, 4, 2):
        yield Case("barrier", f"ranks{n}", partial(meet, ranks=n), G11_BARRIER, n)
        make = partial(reduce, ranks=n, num_bytes=64 << 10, algorithm="one_shot")
        yield Case("all_reduce_one_shot", f"ranks{n}_64k", make, G11_ONE_SHOT, n)
        make = partial(reduce, ranks=n, num_bytes=1 << 20, algorithm="two_shot")
        yield Case("all_reduce_two_shot", f"ranks{n}_1m", make, G11_TWO_SHOT, n)


def meet(place: Place, *, ranks: int) -> Problem:
    """The barrier alone. Its result: every rank has counted as many of them as rank 0."""
    n = place.ranks(ranks)
    memory = SymmetricMemory.virtual(n, 0, place.device)

    def ours() -> torch.Tensor:
        barrier.barrier(memory)
        return memory.epochs[:, 0]

    return Problem(
        draw=lambda number: (),
        ours=ours,
        reference=lambda: torch.zeros(n, device=place.device),
        part=lambda epochs: epochs - epochs[:1],
        rivals={},
        moved_bytes=0,
        tolerance=0.0,
    )


def reduce(place: Place, *, ranks: int, num_bytes: int, algorithm: str) -> Problem:
    """`num_bytes` of bf16 on every rank. The rival adds them up in torch and copies the sum to each: no barrier."""
    n, numel = place.ranks(ranks), place.size(num_bytes // 2, 300)
    memory = SymmetricMemory.virtual(n, num_bytes, place.device)
    call = {"one_shot": all_reduce.one_shot, "two_shot": all_reduce.two_shot}[algorithm]

    def in_torch(x: torch.Tensor) -> torch.Tensor:
        return x.sum(0).expand(n, -1).contiguous()

    return Problem(
        draw=lambda number: (place.randn(n, numel, seed=number),),
        ours=lambda x: call(x, memory),
        reference=lambda x: in_torch(x.double()),
        rivals={"torch sum and copy": in_torch},
        moved_bytes=n * all_reduce.moved_bytes(numel * 2, n, algorithm),
    )


def reduce_norm(place: Place, *, ranks: int, rows: int) -> Problem:
    """The sum over the ranks, the residual and the norm: in one kernel, or in two."""
    n, m, d = place.ranks(ranks), place.size(rows, 5), place.size(8192, 100)
    whole = -(-m // MAX_BLOCKS) * MAX_BLOCKS * d * 2  # the fused kernel deals whole rows to blocks
    memory = SymmetricMemory.virtual(n, max(whole, MAX_BLOCKS * SLOT_UNIT * n), place.device)

    def draw(number: int) -> tuple[torch.Tensor, ...]:
        x = place.randn(n, m, d, seed=3 * number)
        residual = place.randn(m, d, seed=3 * number + 1).expand(n, -1, -1).contiguous()
        return x, residual, 1 + place.randn(d, seed=3 * number + 2, fan_in=100)

    def two_shot(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return rms_norm.add_rms_norm(all_reduce.two_shot(x, memory), residual, weight, EPS)

    def reference(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = all_reduce_rms_norm.reference(x.double(), residual[0].double(), weight.double(), EPS)
        return tuple(one.expand(n, -1, -1) for one in found)

    return Problem(
        draw=draw,
        ours=lambda x, residual, weight: all_reduce_rms_norm.all_reduce_rms_norm(x, residual, weight, EPS, memory),
        reference=reference,
        rivals={
            UNFUSED: lambda x, residual, weight: all_reduce_rms_norm.unfused(x, residual, weight, EPS, memory),
            "two-shot, then norm": two_shot,
        },
        moved_bytes=n * all_reduce_rms_norm.moved_bytes(shape(m, d), shape(d), n),
    )


def exchange(place: Place, *, ranks: int) -> Problem:
    """128 tokens a rank to 8 of 256 experts each and back, without what the experts do: DeepSeek-V3's layer.

    The routing is the same in every set of inputs, and the rival knows it on the host.
    """
    n, t, d = place.ranks(ranks), place.size(128, 6), place.size(7168, 40)
    e, k = place.size(256, 8), place.size(8, 3)
    local, m = e // n, t * k
    logits = place.randn(n, t, e, seed=0, dtype=torch.float32)
    orders = [moe_sort.sort_by_expert(one.topk(k).indices.int(), e) for one in logits]
    offsets, token = torch.stack([one.offsets for one in orders]), torch.stack([one.token for one in orders])
    segments = offsets[:, ::local].tolist()  # of each source: where the rows of each destination begin, and the end
    needed = all_to_all.needed_bytes(n, e, m, d, torch.bfloat16)
    memory = SymmetricMemory.virtual(n, needed, place.device)
    exchange = all_to_all.Exchange(memory, e, m, d, torch.bfloat16)
    there = torch.empty(n, n, m, d, dtype=torch.bfloat16, device=place.device)
    back = torch.empty(n, m, d, dtype=torch.bfloat16, device=place.device)

    def ours(x: torch.Tensor, offsets: torch.Tensor, token: torch.Tensor) -> tuple[torch.Tensor, ...]:
        received = all_to_all.dispatch(x, offsets, token, exchange)
        return all_to_all.combine(received.rows, exchange), received.counts

    def index(x: torch.Tensor, offsets: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        pairs = [(r, p, segments[r][p], segments[r][p + 1]) for r in range(n) for p in range(n)]
        rows = [one[order] for one, order in zip(x, token, strict=True)]
        for r, p, begin, end in pairs:
            there[p, r, : end - begin] = rows[r][begin:end]
        for r, p, begin, end in pairs:
            back[r, begin:end] = there[p, r, : end - begin]
        return back

    def reference(x: torch.Tensor, offsets: torch.Tensor, token: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = torch.stack([one[order].double() for one, order in zip(x, token, strict=True)])
        return rows, offsets.diff().unflatten(1, (n, local)).transpose(0, 1).double()

    return Problem(
        draw=lambda number: (place.randn(n, t, d, seed=number + 1), offsets, token),
        ours=ours,
        reference=reference,
        rivals={INDEX: index},
        moved_bytes=2 * n * all_to_all.moved_bytes(m, d, torch.bfloat16),
        tolerance=0.0,
        in_place=True,
    )
