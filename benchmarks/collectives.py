"""C1, C2, C5, C6: our own collectives against torch.distributed's, call by call in the same ranks.

Two contenders take turns within a run, and what counts is their ratio round by round. The calls of a contender are
timed inside the program, so starting a program is in nobody's time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
import torch.distributed as dist  # the rival

from benchmarks import Row
from shardlab import Plan, Ranks, comm
from shardlab.algorithms import SharedMemory, available, direct, over_shared_memory
from shardlab.comm.mesh import Axis, Mesh
from shardlab.measure.machine import num_cores
from shardlab.measure.timer import interleave, ratio, slowest

NUM_RANKS = 4
KIB, MIB = 1 << 10, 1 << 20
SMALL = (KIB, 16 * KIB, 64 * KIB)
EVERY = (KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB)
_ROUNDS = 7
_SAMPLE_S = 0.05

Contender = Callable[[Axis, int, SharedMemory | None], Callable[[], object]]

_all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


# ------------------------------------------------------------------ contenders: make the tensors, return the call


def backend_all_reduce(axis: Axis, num_bytes: int, shared: SharedMemory | None) -> Callable[[], object]:
    tensor = torch.zeros(num_bytes // 4)
    return lambda: dist.all_reduce(tensor, group=axis.group)


def shared_one_shot(axis: Axis, num_bytes: int, shared: SharedMemory | None) -> Callable[[], object]:
    assert shared is not None
    tensor = torch.zeros(num_bytes // 4)
    return lambda: over_shared_memory.all_reduce_one_shot(tensor, shared)


def shared_two_shot(axis: Axis, num_bytes: int, shared: SharedMemory | None) -> Callable[[], object]:
    """In place, as the backend's is: no new 16 MB a call for either."""
    assert shared is not None
    tensor = torch.zeros(num_bytes // 4)
    return lambda: over_shared_memory.all_reduce_two_shot(tensor, shared, out=tensor)


def backend_reduce_scatter(axis: Axis, num_bytes: int, shared: SharedMemory | None) -> Callable[[], object]:
    tensor, out = torch.zeros(num_bytes // 4), torch.empty(num_bytes // 4 // axis.size)
    return lambda: _reduce_scatter_single(out, tensor, group=axis.group)


def list_reduce_scatter(axis: Axis, num_bytes: int, shared: SharedMemory | None) -> Callable[[], object]:
    slices, out = list(torch.zeros(num_bytes // 4).chunk(axis.size)), torch.empty(num_bytes // 4 // axis.size)
    return lambda: dist.reduce_scatter(out, slices, group=axis.group)


def all_to_all_reduce_scatter(axis: Axis, num_bytes: int, shared: SharedMemory | None) -> Callable[[], object]:
    tensor = torch.zeros(num_bytes // 4)
    return lambda: comm.reduce_scatter(tensor, axis)


def backend_all_gather(axis: Axis, num_bytes: int, shared: SharedMemory | None) -> Callable[[], object]:
    local, out = torch.zeros(num_bytes // 4 // axis.size), torch.empty(num_bytes // 4)
    return lambda: _all_gather_single(out, local, group=axis.group)


def direct_all_gather(axis: Axis, num_bytes: int, shared: SharedMemory | None) -> Callable[[], object]:
    local = torch.zeros(num_bytes // 4 // axis.size)
    return lambda: direct.all_gather(local, axis)


# ---------------------------------------------------------------------------------------------------------- timing


def seconds(mesh: Mesh, contender: Contender, num_bytes: int, calls: int, in_memory: bool) -> float:
    """Seconds of one call, averaged over `calls`, after one that is not counted."""
    axis = mesh["tp"]
    with SharedMemory(axis, num_bytes) if in_memory else nullcontext() as shared:
        call = contender(axis, num_bytes, shared)
        call()
        comm.barrier(axis)
        started = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - started) / calls


def gain(ranks: Ranks, ours: Contender, theirs: Contender, num_bytes: int, tp: int) -> float:
    """How many times faster ours is: theirs / ours, the median over the rounds."""

    def timed(contender: Contender, calls: int) -> float:
        in_memory = contender in (shared_one_shot, shared_two_shot)
        return slowest(ranks.run(seconds, contender, num_bytes, calls, in_memory, plan=Plan(tp=tp), check=False))

    # Ranks leave the barrier a millisecond apart: enough calls that it does not matter.
    num_ours, num_theirs = (max(3, min(2000, int(_SAMPLE_S / timed(one, 5)))) for one in (ours, theirs))
    both = interleave(
        {"ours": lambda: timed(ours, num_ours), "theirs": lambda: timed(theirs, num_theirs)}, rounds=_ROUNDS, warmup=0
    )
    return ratio(both["theirs"], both["ours"]).median_s


def row(
    goal: str, what: str, ranks: Ranks, ours: Contender, theirs: Contender, sizes: Sequence[int], tp: int, least: float
) -> Row:
    """One row for all sizes: met where the smallest gain is."""
    gains = [gain(ranks, ours, theirs, num_bytes, tp) for num_bytes in sizes]
    measured = ", ".join(f"{size_text(size)} {one:.1f}x" for size, one in zip(sizes, gains, strict=True))
    what = f"{what}, {tp} ranks on {num_cores()} cores"
    return Row(goal, what, measured, f">= {least:g}x", min(gains) >= least)


def size_text(num_bytes: int) -> str:
    return f"{num_bytes // MIB} MiB" if num_bytes >= MIB else f"{num_bytes // KIB} KiB"


def rows() -> list[Row]:
    found = []
    fine, why = available()
    with Ranks(NUM_RANKS, "gloo") as batch:
        if fine:
            with Ranks(NUM_RANKS, "gloo", batch=False) as default:
                what = "shared memory against gloo, all_reduce, default scheduler"
                for tp, least in ((2, 6.0), (NUM_RANKS, 20.0)):
                    found.append(row("C1", what, default, shared_one_shot, backend_all_reduce, SMALL, tp, least))
            what = "shared memory against gloo, all_reduce, SCHED_BATCH"
            found.append(row("C2", what, batch, shared_one_shot, backend_all_reduce, SMALL, NUM_RANKS, 8.0))
            found.append(row("C2", what, batch, shared_two_shot, backend_all_reduce, (16 * MIB,), NUM_RANKS, 1.8))
        else:
            found.append(Row("C1", "shared memory against gloo, all_reduce", why))
        ours, what = all_to_all_reduce_scatter, "reduce_scatter by all_to_all against gloo's own"
        found.append(row("C5", what, batch, ours, backend_reduce_scatter, EVERY, NUM_RANKS, 1.2))
        upto = tuple(size for size in EVERY if size <= 256 * KIB)
        found.append(row("C5", f"{what} (list form)", batch, ours, list_reduce_scatter, upto, NUM_RANKS, 4.0))
        what = "direct all_gather against gloo's own"
        large = tuple(size for size in EVERY if size >= 64 * KIB)
        found.append(row("C6", what, batch, direct_all_gather, backend_all_gather, large, NUM_RANKS, 1.1))
    return found
