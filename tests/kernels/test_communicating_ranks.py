"""The communicating kernels across real processes: exact, the same bits everywhere, also when a rank is slow.

In the interpreter the ranks share the machine's memory. A slow rank sleeps right after each barrier, inside the kernel,
while the others go on: what a missing barrier, or a slot that is used again too early, would spoil, is spoilt then.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from shardlab import Plan, Ranks
from shardlab.algorithms.symmetric import symmetric_memory
from shardlab.comm.mesh import Mesh
from shardlab_kernels import all_reduce, all_reduce_rms_norm, all_to_all, launch, moe_sort
from shardlab_kernels.moe_permute import Order, permute, reference_permute, unpermute
from tests.kernels.support import DTYPES, TOLERANCE

SIZES = (1, 127, 129, 1000, 4099)

pytestmark = pytest.mark.skipif(
    not launch.INTERPRETED, reason="ranks on CPUs run kernels only where they are interpreted"
)


def numbers(rank: int, call: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """What `rank` brings to a call: numbers whose order of addition shows. Every rank can make everybody's."""
    generator = torch.Generator().manual_seed(1000 * call + rank)
    return (torch.randn(*shape, generator=generator) * 10.0 ** (rank % 3)).to(dtype)


def same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Bit for bit; but the interpreter cuts bf16 off where a GPU rounds it."""
    if found.dtype == torch.bfloat16:
        return torch.allclose(found.float(), wanted.float(), rtol=2**-6, atol=5e-2)
    return torch.equal(found, wanted)


@contextmanager
def slow_after_barriers(seconds: float) -> Iterator[list[int]]:
    """Within it this rank sleeps after each barrier of a kernel. The list counts them."""
    met = [0]

    def slow(module):
        meet = module.meet

        def meet_and_sleep(*args, **kwargs):
            epoch = meet(*args, **kwargs)
            met[0] += 1
            time.sleep(seconds)
            return epoch

        return meet_and_sleep

    with pytest.MonkeyPatch.context() as patch:
        for module in (all_reduce, all_reduce_rms_norm, all_to_all):
            patch.setattr(module, "meet", slow(module))
        yield met


# --------------------------------------------------------------------------------------------------- all-reduces


def all_reduces(mesh: Mesh, dtype: torch.dtype) -> tuple[list[str], str]:
    """Every kind on every size, in a row and in one memory: what came out wrong, and a digest of everything."""
    tp, wrong, digest = mesh["tp"], [], hashlib.sha256()
    memory = symmetric_memory(tp, 1 << 17, num_blocks=4)
    for call, length in enumerate(SIZES * 2):
        everyone = torch.stack([numbers(rank, call, (length,), dtype) for rank in range(tp.size)])
        mine = everyone[tp.rank].clone()
        for shot in (all_reduce.one_shot, all_reduce.two_shot):
            out = shot(mine, memory)
            digest.update(out.view(torch.uint8).numpy().tobytes())
            if not same(out, in_rank_order(everyone)):
                wrong.append(f"{shot.__name__} {length}")
        if not torch.equal(mine, everyone[tp.rank]):
            wrong.append(f"{length}: wrote over its input")
    return wrong, digest.hexdigest()


def in_rank_order(everyone: torch.Tensor) -> torch.Tensor:
    total = torch.zeros_like(everyone[0], dtype=torch.float32)
    for one in everyone:
        total += one
    return total.to(everyone.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tp", [2, 4])
def test_all_reduce_is_exact_on_every_rank(ranks: Ranks, tp: int, dtype: torch.dtype) -> None:
    (wrong, digest), *others = ranks.run(all_reduces, dtype, plan=Plan(tp=tp), check=False)
    assert wrong == [] and others == [([], digest)] * (tp - 1)


def fused(mesh: Mesh, dtype: torch.dtype) -> tuple[list[str], str]:
    tp, wrong, digest = mesh["tp"], [], hashlib.sha256()
    memory = symmetric_memory(tp, 1 << 17, num_blocks=3)
    for call, (rows, d) in enumerate(((1, 1), (7, 127), (2, 1000), (3, 129), (5, 64))):
        everyone = torch.stack([numbers(rank, call, (rows, d), dtype) for rank in range(tp.size)])
        residual, weight = numbers(90, call, (rows, d), dtype), numbers(91, call, (d,), dtype)
        x = everyone[tp.rank]
        normed, total = all_reduce_rms_norm.all_reduce_rms_norm(x, residual, weight, 1e-5, memory)
        digest.update(torch.stack([normed, total]).view(torch.uint8).numpy().tobytes())
        if not same(total, (in_rank_order(everyone).float() + residual.float()).to(dtype)):
            wrong.append(f"total {rows} {d}")
        wanted = all_reduce_rms_norm.rms_norm.reference(total.double(), weight.double(), 1e-5)
        if not torch.allclose(normed.double(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]):
            wrong.append(f"normed {rows} {d}")
        unfused = all_reduce_rms_norm.unfused(x, residual, weight, 1e-5, memory)
        if not torch.equal(total, unfused[1]):
            wrong.append(f"unfused {rows} {d}")
    return wrong, digest.hexdigest()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tp", [2, 4])
def test_fused_norm_is_the_same_on_every_rank(ranks: Ranks, tp: int, dtype: torch.dtype) -> None:
    (wrong, digest), *others = ranks.run(fused, dtype, plan=Plan(tp=tp), check=False)
    assert wrong == [] and others == [([], digest)] * (tp - 1)


def many_calls(mesh: Mesh, slow: int, calls: int) -> list[str]:
    """Calls of random kind and size, one rank always late: what came out wrong."""
    tp, same, wrong = mesh["tp"], random.Random(slow), []
    memory = symmetric_memory(tp, 1 << 17, num_blocks=3)
    with slow_after_barriers(0.01 if tp.rank == slow else 0.0) as met:
        for call in range(calls):
            kind, length = same.choice(("one_shot", "two_shot", "fused")), same.choice(SIZES)
            shape = (1, min(length, 1000)) if kind == "fused" else (length,)
            everyone = torch.stack([numbers(rank, call, shape, torch.float32) for rank in range(tp.size)])
            if kind == "fused":
                zeros, ones = torch.zeros(shape), torch.ones(shape[-1])
                out = all_reduce_rms_norm.all_reduce_rms_norm(everyone[tp.rank], zeros, ones, 1e-5, memory)[1]
            else:
                out = getattr(all_reduce, kind)(everyone[tp.rank], memory)
            if not torch.equal(out, in_rank_order(everyone)):
                wrong.append(f"call {call}: {kind} {length}")
    return wrong if met[0] >= calls else ["the rank was not slowed down"]


@pytest.mark.parametrize(("tp", "slow"), [(2, 0), (2, 1), (4, 2)])
def test_a_slow_rank_spoils_nothing(ranks: Ranks, tp: int, slow: int) -> None:
    assert ranks.run(many_calls, slow, 25, plan=Plan(tp=tp), check=False) == [[]] * tp


# ---------------------------------------------------------------------------------------------------- all-to-all

T, K, D = 3, 2, 33
PATTERNS = (
    "random",
    "all to the first expert",
    "all to the last expert",
    "rank 0 has none",
    "nobody has any",
    "random",
)


def experts_of(rank: int, size: int, pattern: str, call: int) -> torch.Tensor:
    """int32[T,K], two of 2 * size experts for each token; fewer tokens on some ranks."""
    tokens = 0 if pattern == "nobody has any" or (rank == 0 and pattern == "rank 0 has none") else T - rank % 2
    chosen = torch.randint(0, 2 * size, (tokens, K), generator=torch.Generator().manual_seed(100 * call + rank))
    if pattern.startswith("all"):
        chosen[:] = 0 if "first" in pattern else 2 * size - 1
    return chosen.int()


def layers(mesh: Mesh, dtype: torch.dtype, slow: int) -> list[str]:
    """Mixture-of-experts layers, one after another: expert e multiplies by 2^(e % 4). What came out wrong."""
    ep, wrong = mesh["tp"], []
    n, num_experts = ep.size, 2 * ep.size
    memory = symmetric_memory(ep, all_to_all.needed_bytes(n, num_experts, T * K, D, dtype), num_blocks=2)
    exchange = all_to_all.Exchange(memory, num_experts, T * K, D, dtype)
    with slow_after_barriers(0.02 if ep.rank == slow else 0.0):
        for call, pattern in enumerate(PATTERNS):
            chosen = [experts_of(rank, n, pattern, call) for rank in range(n)]
            xs = [numbers(rank, call, (len(chosen[rank]), D), dtype) for rank in range(n)]
            orders = [moe_sort.reference(one, num_experts) for one in chosen]
            sorted_rows = [reference_permute(*both) for both in zip(xs, orders, strict=True)]
            x, order = xs[ep.rank], orders[ep.rank]
            if call % 2:
                received = all_to_all.dispatch(x, order.offsets, order.token, exchange)
            else:
                received = all_to_all.dispatch(sorted_rows[ep.rank], order.offsets, None, exchange)
            wanted = all_to_all.reference_dispatch(sorted_rows, [one.offsets for one in orders], ep.rank)
            counts = torch.stack([one.offsets.diff()[2 * ep.rank : 2 * ep.rank + 2] for one in orders])
            if not torch.equal(received.counts, counts):
                wrong.append(f"{pattern}: counts")
            for source in range(n):
                if not torch.equal(received.rows[source, : len(wanted[source])], wanted[source]):
                    wrong.append(f"{pattern}: rows of {source}")
            back = returned(received, exchange, order, ep.rank, expert_major=call != 2)
            factor = 2.0 ** (torch.arange(num_experts).repeat_interleave(order.offsets.diff()) % 4)
            if not torch.equal(back, sorted_rows[ep.rank] * factor[:, None].to(dtype)):
                wrong.append(f"{pattern}: combined")
            weights = torch.full(chosen[ep.rank].shape, 0.5)
            mixed = (x.float()[:, None] * 2.0 ** (chosen[ep.rank] % 4)[..., None] * 0.5).sum(1)
            if not torch.allclose(unpermute(back, order, weights).float(), mixed, atol=0.5, rtol=TOLERANCE[dtype]):
                wrong.append(f"{pattern}: mixed")
    return wrong


def returned(
    received: all_to_all.Received, exchange: all_to_all.Exchange, order: Order, rank: int, expert_major: bool
) -> torch.Tensor:
    """The experts' work on what came, in expert order or where it lies, and back."""
    if expert_major:
        here = all_to_all.received_order(received.counts, exchange.capacity)
        rows = permute(received.rows.flatten(0, 1), here)
        for e in range(2):
            rows[here.offsets[e] : here.offsets[e + 1]] *= 2.0 ** ((2 * rank + e) % 4)
        return all_to_all.combine(rows, exchange, here.position)
    out = received.rows.clone()
    for source, (first, second) in enumerate(received.counts.tolist()):
        out[source, :first] *= 2.0 ** (2 * rank % 4)
        out[source, first : first + second] *= 2.0 ** ((2 * rank + 1) % 4)
    return all_to_all.combine(out, exchange)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tp", "slow"), [(2, -1), (4, 1)])
def test_rows_go_to_their_experts_and_come_back(ranks: Ranks, tp: int, slow: int, dtype: torch.dtype) -> None:
    assert ranks.run(layers, dtype, slow, plan=Plan(tp=tp), check=False) == [[]] * tp
