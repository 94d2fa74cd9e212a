"""Lab 01's three exercises: a reduce_scatter that sends no more than it must, a ring by hand, and a crossover."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from shardlab.check.trial import DEGREES, busiest, compare, hinted, listed, number, run, same
from shardlab.check.verdict import Verdict
from shardlab.comm.mesh import Mesh
from shardlab.launch import Ranks
from shardlab.theory.collectives import time_s, wire_bytes
from shardlab.theory.hardware import Link
from shardlab.theory.ledger import sent_bytes

_NUM = 12  # 2 and 3 divide it
_SHARD = 5


def reduce_scatter(attempt: Callable[..., torch.Tensor], ranks: Ranks) -> Verdict:
    """Check `attempt(mesh, partial[n]) -> [n/T]`, this rank's slice of the sum, within S(T-1)/T bytes sent."""
    for degree in DEGREES:
        outputs = run(ranks, degree, _reduce_scatter_trial, attempt)
        if isinstance(outputs, Verdict):
            return outputs
        total = torch.stack([_partial(rank) for rank in range(degree)]).sum(0)
        for rank, (out, wanted) in enumerate(zip(outputs, total.chunk(degree), strict=True)):
            if isinstance(out, torch.Tensor) and same(out, total):
                return Verdict(
                    False, f"rank {rank} of T={degree} returned the whole sum.", "it keeps only slice r of it."
                )
            verdict = compare(out, wanted, rank, degree)
            if verdict is None:
                continue
            return hinted(verdict, "rank r keeps slice r: send slice j to rank j, and add up what arrives.")
        size = _NUM * 4
        most = busiest(ranks.transfers, degree)
        sent, least = sent_bytes(most, world_size=degree), size * (degree - 1) / degree
        if sent > least:
            message = f"the sum is right at T={degree}, but a rank sent {sent:,.0f} B ({listed(most)})."
            return Verdict(False, message, f"{least:,.0f} B are enough: no rank needs another rank's slice of the sum.")
    return Verdict(True, "each rank has its slice of the sum at T=2 and T=3, for S(T-1)/T bytes.")


def ring_all_gather(attempt: Callable[..., torch.Tensor], ranks: Ranks) -> Verdict:
    """Check `attempt(mesh, local[n]) -> [T*n]`, all shards in rank order, in T-1 sends of one shard each."""
    for degree in (*DEGREES, 4):
        outputs = run(ranks, degree, _all_gather_trial, attempt)
        if isinstance(outputs, Verdict):
            return hinted(outputs, "in each step receive into a new tensor, and pass that one on in the next.")
        wanted = torch.cat([_shard(rank) for rank in range(degree)])
        for rank, out in enumerate(outputs):
            verdict = compare(out, wanted, rank, degree)
            if verdict is None:
                continue
            if isinstance(out, torch.Tensor) and torch.equal(out.sort().values, wanted.sort().values):
                return hinted(verdict, "every shard is there, in the wrong place: whose shard arrives in step k?")
            return hinted(verdict, "after T-1 steps every rank has seen every shard; put each where it belongs.")
        most = busiest(ranks.transfers, degree)
        sends = [one for one in most if one.op == "send"]
        if len(most) != degree - 1 or {one.num_bytes for one in sends} != {_SHARD * 4}:
            message = f"the output is right at T={degree}, but the transfers were {listed(most)}."
            return Verdict(False, message, f"a ring takes T-1 = {degree - 1} sends of one shard ({_SHARD * 4} B).")
    return Verdict(True, "every rank has every shard in order at T=2, 3 and 4, in T-1 sends of one shard.")


def crossover_bytes(attempt: Callable[..., float]) -> Verdict:
    """Check `attempt(T, alpha_s, bandwidth_Bps) -> S` where one_shot and ring all_reduce cost the same.

    Held to theory.collectives.time_s at that S: alpha-beta, nothing else. At T = 2 they never cross: inf.
    """
    for world_size in (2, 3, 4, 8):
        for link in (Link(1e-6, 450e9), Link(1e-4, 1e9)):
            guess = number(attempt, world_size, link.alpha_s, link.bandwidth_Bps)
            if isinstance(guess, Verdict):
                return Verdict(False, f"at T={world_size} {guess.message}")
            where = f"T={world_size}, alpha={link.alpha_s:g} s, {link.bandwidth_Bps / 1e9:g} GB/s"
            if world_size == 2:
                if not math.isinf(guess):
                    hint = "with two ranks both send S, and one_shot waits once instead of twice: it always wins (inf)."
                    return Verdict(False, f"{where}: you say they cross at {guess:g} B.", hint)
                continue
            if not (math.isfinite(guess) and guess > 0):
                return Verdict(False, f"{where}: you say {guess:g} B.", "set the two times equal and solve for S.")
            times = [
                time_s("all_reduce", num_bytes=guess, world_size=world_size, link=link, algorithm=name)
                for name in ("one_shot", "ring")
            ]
            if abs(times[0] / times[1] - 1) > 1e-3:
                sent = [
                    wire_bytes("all_reduce", num_bytes=1, world_size=world_size, algorithm=name)
                    for name in ("one_shot", "ring")
                ]
                message = f"{where}: at your {guess:,.0f} B one_shot takes {times[0]:.3g} s, a ring {times[1]:.3g} s."
                hint = (
                    f"one_shot: 1 step, {sent[0]:g} S bytes. ring: {2 * (world_size - 1)} steps, {sent[1]:g} S bytes."
                )
                return Verdict(False, message, hint)
    return Verdict(True, "the two times are equal at your size for T = 3, 4 and 8, on a fast link and on a slow one.")


def _partial(rank: int) -> torch.Tensor:
    return torch.randn(_NUM, generator=torch.Generator().manual_seed(10 + rank))


def _shard(rank: int) -> torch.Tensor:
    return torch.arange(_SHARD, dtype=torch.float32) + 100 * rank


def _reduce_scatter_trial(mesh: Mesh, attempt: Callable[..., torch.Tensor]) -> torch.Tensor:
    return attempt(mesh, _partial(mesh["tp"].rank))


def _all_gather_trial(mesh: Mesh, attempt: Callable[..., torch.Tensor]) -> torch.Tensor:
    return attempt(mesh, _shard(mesh["tp"].rank))
