"""Lab 01: every collective by every implementation, counted once and timed in turns. What each rank of a sweep runs."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from shardlab import algorithms, comm
from shardlab.algorithms import SharedMemory
from shardlab.algorithms.over_symmetric_memory import room_for
from shardlab.algorithms.symmetric import symmetric_memory
from shardlab.comm.mesh import Mesh
from shardlab.measure.journal import Journal
from shardlab.sweep.inputs import Cell, base_of, expected_of, input_of
from shardlab_kernels.symmetric_memory import SymmetricMemory

_SMALL = 1 << 20  # bytes; up to here a call is too short to be estimated from one
_CROWD = 8  # ranks; of more, on one machine, a call takes long enough
_MOST_CALLS = 500
_WARM_FROM = 4  # calls in a sample; a longer one can spare a first call that is not counted
_TURN_S = 3e-4  # what a turn costs beside its calls: the barrier
_SHORTEST_S = 5e-4  # of a sample; below, the ranks' different starts would be most of it


def count(mesh: Mesh, cell: Cell) -> int:
    """One call on integers; returns the bytes that this rank moved through shared memory (0 over a network).

    The result must be exact, or RuntimeError names rank and implementation.
    """
    axis = mesh["tp"]
    with ExitStack() as stack:
        # made only where it is used: its first bytes would be counted with those of a call over the network
        shared = _shared(mesh, [cell], stack) if cell.implementation.transport == "shared_memory" else None
        base = base_of(mesh, cell.num_bytes)
        out = Work(mesh, cell, input_of(cell, base, axis.rank, axis.size), shared, _symmetric(mesh, [cell]))(0)
        expected = expected_of(cell, base, axis.rank, axis.size)
        if expected is not None and not torch.equal(out, expected):
            one = cell.implementation
            raise RuntimeError(
                f"{one.op} by {one.algorithm} over {one.transport}, {cell.num_bytes} bytes on {axis.size} ranks: "
                f"wrong on rank {axis.rank} in {int((out != expected).sum())} of {expected.numel()} elements"
            )
        return shared.moved_bytes if shared is not None else 0


def time_cells(
    mesh: Mesh,
    cells: Sequence[Cell],
    rounds: int,
    journal_path: str,
    *,
    sample_s: float = 0.01,
    budget_s: float | None = None,
) -> int:
    """Seconds of one call of each cell, sample by sample, into the journal; returns the rounds done.

    A sample is as many calls as take about `sample_s`, one at least, between two clocks, after a barrier. Within a
    round every cell has its turn, in another order each round: none always follows the same large one.
    With `budget_s` no round is begun that would probably end later (one always is), and samples are shorter where so
    many rounds would not fit. On a GPU the clock is read when the device has finished: what a call costs from Python,
    its launch included.
    """
    started = time.perf_counter()
    axis = mesh["tp"]
    journal = Journal(journal_path, axis.size, len(cells), rounds)
    with ExitStack() as stack:
        shared = _shared(mesh, cells, stack)
        base = base_of(mesh, max(cell.num_bytes for cell in cells)) + axis.rank
        symmetric = _symmetric(mesh, cells)
        # base has the rank in it, so each input is taken as rank 0's
        works = [Work(mesh, cell, input_of(cell, base, 0, axis.size), shared, symmetric) for cell in cells]
        estimates = _estimates_s(mesh, works)
        if budget_s is not None:
            left_s = budget_s - (time.perf_counter() - started)
            sample_s = _agree(mesh, _affordable_s(estimates, sample_s, left_s / rounds))
        calls = [_calls(work, seconds, sample_s) for work, seconds in zip(works, estimates, strict=True)]
        for cell, (number, seconds) in enumerate(zip(calls, estimates, strict=True)):
            journal.expect(axis.rank, cell, _TURN_S + (number + (number >= _WARM_FROM)) * seconds)
        done, longest_s = 0, 0.0
        while done < rounds:
            began = time.perf_counter()
            for cell in random.Random(done).sample(range(len(cells)), len(cells)):  # the same on every rank
                if calls[cell] >= _WARM_FROM:
                    works[cell](0)  # the cell before has filled the caches with its own
                journal.write(axis.rank, cell, done, works[cell].seconds(calls[cell]))
            done += 1
            now = time.perf_counter()
            longest_s = max(longest_s, now - began)
            if budget_s is not None and _agree(mesh, now + longest_s - started) > budget_s:
                break
    mesh.recorder.transfers.clear()  # a hundred thousand calls that nobody asks about would all travel to the kernel
    return done


@dataclass(frozen=True)
class Work:
    """A cell ready to run on this rank."""

    mesh: Mesh
    cell: Cell
    tensor: torch.Tensor
    shared: SharedMemory | None
    symmetric: SymmetricMemory | None

    def __call__(self, turn: int) -> torch.Tensor:
        """One call. `turn` makes each call wait for the one before, so that latencies add up.

        Sends pass a token round the ranks. The source of a broadcast is the rank that was last to hear the one
        before. (With the same source every time, calls would overlap, and hide how long one takes.)
        """
        one, axis = self.cell.implementation, self.mesh["tp"]
        src = {"send": turn, "broadcast": -turn}.get(one.op, 0) % axis.size
        if one.op == "send" and one.transport != "shared_memory" and axis.rank not in (src, (src + 1) % axis.size):
            return self.tensor  # no part in it: a bystander's copy would take memory bandwidth from the two that have
        return algorithms.run(
            one.op,
            self.tensor,
            axis,
            algorithm=one.algorithm,
            transport=one.transport,
            shared=self.shared,
            symmetric=self.symmetric,
            src=src,
        )

    def seconds(self, calls: int) -> float:
        """This rank's seconds for one of `calls` calls that follow each other, all ranks starting together."""
        if self.shared is not None:
            self.shared.barrier()  # lets all ranks go within microseconds, where gloo's takes a millisecond
        else:
            comm.barrier(self.mesh["tp"])
        _finish(self.mesh)
        started = time.perf_counter()
        for turn in range(calls):
            self(turn)
        _finish(self.mesh)
        return (time.perf_counter() - started) / calls


def _estimates_s(mesh: Mesh, works: Sequence[Work]) -> list[float]:
    """Seconds of one call of each cell, roughly: the best of a few, as the slowest rank saw them.

    The best, since an interruption here would mean too few calls in every sample that follows.
    """
    axis = mesh["tp"]
    mine = []
    for work in works:
        work(0)  # touches the pages of its results for the first time
        small = work.cell.num_bytes <= _SMALL and axis.size <= _CROWD
        mine.append(min(work.seconds(2) for _ in range(2)) if small else work.seconds(1))
    everyone = comm.all_gather(torch.tensor([mine], dtype=torch.float64, device=mesh.device), axis, dim=0)
    return everyone.amax(0).tolist()


def _affordable_s(estimates_s: Sequence[float], sample_s: float, round_s: float) -> float:
    """The length of a sample, `sample_s` at most, with which a round of all cells takes about `round_s`."""
    while sample_s > _SHORTEST_S and sum(_TURN_S + max(sample_s, one) + one for one in estimates_s) > round_s:
        sample_s /= 1.25
    return sample_s


def _calls(work: Work, seconds: float, sample_s: float) -> int:
    """How many calls of about `seconds` make a sample."""
    wanted, size = min(max(round(sample_s / seconds), 1), _MOST_CALLS), work.mesh["tp"].size
    every_source = work.cell.implementation.op in ("send", "broadcast")  # each rank is the source in turn
    return -(-wanted // size) * size if every_source else wanted


def _agree(mesh: Mesh, mine: float) -> float:
    """Rank 0's number, on every rank."""
    return float(comm.broadcast(torch.tensor([mine], dtype=torch.float64, device=mesh.device), mesh["tp"]).item())


def _finish(mesh: Mesh) -> None:
    if mesh.device.type == "cuda":
        torch.cuda.synchronize(mesh.device)


def _shared(mesh: Mesh, cells: Sequence[Cell], stack: ExitStack) -> SharedMemory | None:
    """One shared segment, as large as the cells over it need; empty where there are none, for its barrier."""
    if mesh.device.type != "cpu" or not algorithms.available()[0]:
        return None
    sizes = [cell.num_bytes for cell in cells if cell.implementation.transport == "shared_memory"]
    return stack.enter_context(SharedMemory(mesh["tp"], max(sizes, default=0)))


def _symmetric(mesh: Mesh, cells: Sequence[Cell]) -> SymmetricMemory | None:
    """Symmetric memory for the largest cell over it; None where there is none."""
    sizes = [cell.num_bytes for cell in cells if cell.implementation.transport == "symmetric_memory"]
    if not sizes:
        return None
    return symmetric_memory(mesh["tp"], room_for(max(sizes), mesh["tp"].size), mesh.device)
