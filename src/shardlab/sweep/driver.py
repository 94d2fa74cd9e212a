"""A sweep: every implementation of every collective at many sizes, counted once and timed in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shardlab.algorithms import IMPLEMENTATIONS, SYMMETRIC, Implementation
from shardlab.launch import Ranks
from shardlab.measure.journal import Journal
from shardlab.measure.point import Point
from shardlab.measure.timer import Stats
from shardlab.sweep.cells import count, time_cells
from shardlab.sweep.clock import Clock, Progress, guess
from shardlab.sweep.inputs import Cell, fitting_bytes
from shardlab.theory import collectives
from shardlab.theory.degrees import Plan

SIZES = tuple(1 << exponent for exponent in range(10, 23, 2))  # 1 KiB to 4 MiB
SAMPLE_S = 0.01  # a sample is long against the clock and against one turn of the scheduler
MOST_ROUNDS = 1000  # the journal has room for all of them from the start
_LEAST_TIMEOUT_S = 600.0

Counts = tuple[int, str, tuple[tuple[int, ...], ...]]  # sent_bytes, counted, traffic


def sweep(
    ranks: Ranks,
    implementations: Sequence[Implementation] | None = None,
    sizes: Sequence[int] = SIZES,
    degrees: Sequence[int] | None = None,
    *,
    rounds: int = 5,
    budget_s: float | None = None,
    on_progress: Progress | None = None,
    on_points: Callable[[list[Point]], None] | None = None,
) -> list[Point]:
    """Time and bytes of every implementation, at every size S, on every number of ranks, in that order of loops.

    implementations: default all that run on the ranks' backend; algorithms.SYMMETRIC are run if asked for. degrees:
    default the whole pool. A size is rounded down to whole shares of 4 bytes a rank
    (programs.collectives.fitting_bytes); those that fall together are measured once. Each result is checked to be
    exact before anything is timed. Within a degree all cells are timed in turns, `rounds` times; with `budget_s`
    (for timing, all degrees together) fewer if the time is up, once at least. on_progress gets what is done in
    seconds of predicted work, from another thread at times. on_points gets the points of each degree, also when the
    degree was cut short by an interrupt or an error.
    Raises ValueError for what cannot be measured; RankError where a result is wrong, or a rank failed.
    """
    chosen = tuple(implementations) if implementations is not None else runnable(ranks.backend)
    wanted = tuple(degrees) if degrees is not None else (ranks.world_size,)
    _check(ranks, chosen, sizes, wanted, rounds)
    cells_on = {degree: cells_of(chosen, sizes, degree) for degree in wanted}
    clock = Clock(cells_on, rounds, sample_s=SAMPLE_S, budget_s=budget_s, tell=on_progress)
    points: list[Point] = []
    for degree, cells in cells_on.items():
        counts = _count(ranks, cells, degree, clock)
        found: list[Point] = []
        with _kept(found, on_points), journal_of(degree, len(cells), rounds) as journal:
            try:
                with clock.timing(cells, degree, journal):
                    time_on(ranks, cells, degree, journal, budget_s=clock.share_s)
            finally:
                for number, cell in enumerate(cells):
                    stats = journal.stats(number)
                    if stats is not None:
                        found.append(_point(cell, degree, ranks.backend, stats, counts[number]))
        points += found
    return points


def runnable(backend: str) -> tuple[Implementation, ...]:
    """All implementations that run on "gloo" or "nccl": shared memory is the host's, so not a GPU's."""
    return tuple(one for one in IMPLEMENTATIONS if backend == "gloo" or one.transport != "shared_memory")


def cells_of(implementations: Sequence[Implementation], sizes: Sequence[int], degree: int) -> list[Cell]:
    """Every implementation at every size that fits the degree; sizes that fit as the same one count once."""
    fitting = sorted({fitting_bytes(size, degree) for size in sizes})
    return [Cell(one, size) for one in implementations for size in fitting]


@contextmanager
def journal_of(degree: int, num_cells: int, rounds: int) -> Iterator[Journal]:
    """An empty journal in a temporary folder, gone at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="shardlab-sweep-") as folder:
        yield Journal(Path(folder) / "samples", degree, num_cells, rounds, create=True)


def time_on(
    ranks: Ranks,
    cells: Sequence[Cell],
    degree: int,
    journal: Journal,
    *,
    sample_s: float = SAMPLE_S,
    budget_s: float | None = None,
) -> None:
    """Time the cells on the first `degree` ranks, in one run; the samples are in the journal."""
    guess_s = sum(guess(cell, degree, sample_s) for cell in cells) * journal.rounds
    ranks.run(
        time_cells,
        cells,
        journal.rounds,
        journal.path,
        sample_s=sample_s,
        budget_s=budget_s,
        plan=Plan(tp=degree),
        check=False,
        timeout_s=_LEAST_TIMEOUT_S + 20 * guess_s,
    )


def _count(ranks: Ranks, cells: Sequence[Cell], degree: int, clock: Clock) -> list[Counts]:
    """The bytes of one call of each cell, which must give the exact result."""
    found = []
    for cell in cells:
        moved = ranks.run(count, cell, plan=Plan(tp=degree), wire=True)
        if cell.implementation.transport == "shared_memory":
            found.append(_in_memory(cell, degree, moved))
        elif cell.implementation.transport == "symmetric_memory":  # no socket sees it, and kernels do not count
            traffic = tuple(tuple(round(sent) for sent in row) for row in _payload(cell, degree))
            found.append((max(map(sum, traffic)), "by the formula", traffic))
        else:
            found.append(_on_the_wire(ranks, cell, degree))
        clock.counted(cell, degree)
    return found


def _in_memory(cell: Cell, degree: int, moved: Sequence[int]) -> Counts:
    """What each rank moved is counted; whose slot it read is the algorithm's, and the rest it put into its own."""
    traffic = [[round(sent) for sent in row] for row in _payload(cell, degree)]
    for rank in range(degree):
        traffic[rank][rank] = moved[rank] - sum(row[rank] for row in traffic)
    return max(moved), "in shared memory", tuple(map(tuple, traffic))


def _on_the_wire(ranks: Ranks, cell: Cell, degree: int) -> Counts:
    how = "on the wire"
    try:
        matrix = ranks.wire.tolist()
    except ValueError:  # no counters here, or they did not come to rest: the payload is what is known
        matrix, how = _payload(cell, degree), "recorded"
    traffic = tuple(tuple(round(sent) for sent in row) for row in matrix)
    return max(map(sum, traffic)), how, traffic


def _payload(cell: Cell, degree: int) -> list[list[float]]:
    """traffic[i][j] by the formula: what rank j gets from rank i."""
    one = cell.implementation
    return collectives.traffic_matrix(one.op, cell.num_bytes, degree, one.algorithm)


def _point(cell: Cell, degree: int, backend: str, stats: Stats, counts: Counts) -> Point:
    one, size = cell.implementation, cell.num_bytes
    return Point(
        op=one.op,
        algorithm=one.algorithm,
        transport=one.transport,
        backend=backend,
        world_size=degree,
        num_bytes=size,
        median_s=stats.median_s,
        p10_s=stats.p10_s,
        p90_s=stats.p90_s,
        algbw_Bps=collectives.algbw_Bps(size, stats.median_s),
        busbw_Bps=collectives.busbw_Bps(one.op, num_bytes=size, world_size=degree, seconds=stats.median_s),
        steps=collectives.steps(one.op, world_size=degree, algorithm=one.algorithm),
        sent_bytes=counts[0],
        counted=counts[1],
        traffic=counts[2],
        rounds=len(stats.samples_s),
    )


def _check(
    ranks: Ranks, chosen: Sequence[Implementation], sizes: Sequence[int], degrees: Sequence[int], rounds: int
) -> None:
    if not chosen or not sizes or not degrees:
        raise ValueError("nothing to measure: give at least one implementation, one size and one number of ranks")
    known = (*runnable(ranks.backend), *SYMMETRIC)
    for one in chosen:
        if one not in known:
            raise ValueError(f"{one} does not run on {ranks.backend}; it runs: {', '.join(map(str, known))}")
    for degree in degrees:
        if not 2 <= degree <= ranks.world_size:
            raise ValueError(f"{degree} ranks: the pool allows 2..{ranks.world_size} (one rank sends nothing)")
    if min(sizes) < 1:
        raise ValueError(f"a size of {min(sizes)} bytes; allowed: 1 or more")
    if not 1 <= rounds <= MOST_ROUNDS:
        raise ValueError(f"rounds={rounds}; allowed: 1..{MOST_ROUNDS}")


@contextmanager
def _kept(found: list[Point], on_points: Callable[[list[Point]], None] | None) -> Iterator[None]:
    """Whatever ends the block, the points found by then are handed out."""
    try:
        yield
    finally:
        if on_points is not None and found:
            on_points(found)
