"""A cost model of this machine, calibrated in three seconds, and what it is good for.

C9: how far it is off at sizes that it was not fitted to. C11: whether it knows where algorithms change places. C4: what
choosing by it gains over torch.distributed's all_reduce, when only send and recv may be used.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence

import torch

from benchmarks import Row
from shardlab import Plan, Ranks, comm
from shardlab.algorithms import Implementation
from shardlab.algorithms.choose import Cheapest
from shardlab.comm.mesh import Mesh
from shardlab.compare.tables import geomean_error
from shardlab.measure.crossover import Crossover, crossover
from shardlab.measure.timer import Stats, ratio, slowest
from shardlab.sweep.calibrate import OPS, SIZES, TRANSPORTS, calibrate, time_all
from shardlab.sweep.driver import cells_of
from shardlab.theory.cost import CostModel
from shardlab.theory.units import bytes_text

NUM_RANKS = 4
BUDGET_S = 3.0
REPEATS = 3
ROUNDS = 31
SMALL = tuple(1 << exponent for exponent in (10, 12, 14, 16, 18))  # C4: up to 256 KiB

# Between each two neighbours of calibrate's sizes: none of them is fitted to.
HELD_OUT = tuple(round(math.sqrt(low * high)) for low, high in zip(SIZES, SIZES[1:], strict=False))
# C11: all_reduce, the same transport on both sides. With two ranks, two_shot and ring send the same in the same steps.
PAIRS = (
    ("one_shot", "two_shot", "send_recv"),
    ("one_shot", "ring", "send_recv"),
    ("two_shot", "ring", "send_recv"),
    ("one_shot", "two_shot", "shared_memory"),
)
FINE = tuple(1 << exponent for exponent in range(10, 22))


def rows() -> list[Row]:
    with Ranks(NUM_RANKS, "gloo") as ranks:
        ranks.start()
        return [*(_held_out(ranks, degree) for degree in (2, NUM_RANKS)), *_crossovers(ranks), *_chosen(ranks)]


# ------------------------------------------------------------------------------------------- C9: sizes not fitted to


def _held_out(ranks: Ranks, degree: int) -> Row:
    """Calibrate, then measure other sizes; again and again, since this machine changes its speed by the minute."""
    errors, took_s = [], []
    per_op: dict[str, list[float]] = {op: [] for op in OPS}
    for _ in range(REPEATS):
        started = time.monotonic()
        model = calibrate(ranks, degree, BUDGET_S)
        took_s.append(time.monotonic() - started)
        predicted, measured = [], []
        for one, seconds, forecast in _timed_with_progress(ranks, model, degree):
            predicted.append(forecast)
            measured.append(seconds)
            per_op[one.op].append(abs(math.log(forecast / seconds)))
        errors.append(geomean_error(predicted, measured))
    error = statistics.median(errors)
    worst = max(per_op, key=lambda op: statistics.mean(per_op[op]))
    of_worst = math.expm1(statistics.mean(per_op[worst]))
    what = (
        f"cost model on {degree} ranks, {len(OPS)} collectives x {len(TRANSPORTS)} transports, "
        f"{len(HELD_OUT)} sizes it was not fitted to"
    )
    text = (
        f"{100 * error:.0f} % off ({100 * min(errors):.0f}-{100 * max(errors):.0f} in {REPEATS} calibrations of "
        f"{max(took_s):.1f} s); worst: {worst}, {100 * of_worst:.0f} %"
    )
    return Row("C9", what, text, "<= 30 %, aim 15 %, in <= 3 s", error <= 0.30 and max(took_s) <= BUDGET_S)


def _timed_with_progress(ranks: Ranks, model: CostModel, degree: int) -> Iterator[tuple[Implementation, float, float]]:
    """(implementation, measured seconds, predicted seconds) at every size held out."""
    cells = cells_of([Implementation(*key[:3]) for key in model], HELD_OUT, degree)
    for cell, stats in time_all(ranks, cells, degree, rounds=ROUNDS).items():
        yield cell.implementation, stats.median_s, _forecast_s(model, cell.implementation, cell.num_bytes, degree)


def _forecast_s(model: CostModel, one: Implementation, num_bytes: float, degree: int) -> float:
    return model.time_s(
        one.op, num_bytes=num_bytes, world_size=degree, algorithm=one.algorithm, transport=one.transport
    )


# ------------------------------------------------------------------------------------------- C11: who is faster where


def _crossovers(ranks: Ranks) -> list[Row]:
    """The same rule reads predicted and measured curves; two that both find no crossover agree."""
    cases, agreed = [], 0
    for degree in (2, 3, 4):
        model = calibrate(ranks, degree, BUDGET_S, ops=("all_reduce",), transports=("send_recv", "shared_memory"))
        pairs = [pair for pair in PAIRS if degree > 2 or pair[:2] != ("two_shot", "ring")]
        named = {Implementation("all_reduce", name, pair[2]) for pair in pairs for name in pair[:2]}
        timed = time_all(ranks, cells_of(sorted(named), FINE, degree), degree, rounds=ROUNDS)
        for first, second, transport in pairs:
            predicted, measured = _both_ways(model, timed, first, second, transport, degree)
            agrees = measured is None and predicted is None or (measured is not None and measured.agrees(predicted))
            agreed += agrees
            where = f"{_at(predicted)} predicted, {_at(measured)} measured{'' if agrees else ' (missed)'}"
            cases.append(Row("", f"  {degree} ranks, {transport}: {first} against {second}", where))
    what = f"crossovers of all_reduce from {bytes_text(FINE[0])} to {bytes_text(FINE[-1])}, within a power of two"
    share = agreed / len(cases)
    return [Row("C11", what, f"{agreed} of {len(cases)}", ">= 80 %", share >= 0.8), *cases]


def _both_ways(
    model: CostModel, timed: dict, first: str, second: str, transport: str, degree: int
) -> tuple[Crossover | None, Crossover | None]:
    """(predicted, measured)."""
    ends = [Implementation("all_reduce", name, transport) for name in (first, second)]
    curves = [{cell.num_bytes: stats for cell, stats in timed.items() if cell.implementation == one} for one in ends]
    sizes = sorted(curves[0])
    measured = crossover(sizes, *([curve[size].median_s for size in sizes] for curve in curves))
    fine = [sizes[0] * (sizes[-1] / sizes[0]) ** (step / 96) for step in range(97)]  # an eighth of an octave apart
    predicted = crossover(fine, *([_forecast_s(model, one, size, degree) for size in fine] for one in ends))
    return predicted, measured


def _at(found: Crossover | None) -> str:
    return "none" if found is None else bytes_text(found.num_bytes)


# -------------------------------------------------------------------------------------------- C4: choosing by the model


def _chosen(ranks: Ranks) -> list[Row]:
    model = calibrate(ranks, NUM_RANKS, BUDGET_S, ops=("all_reduce",), transports=("send_recv",))
    found = []
    for num_bytes in SMALL:
        per_rank = ranks.run(chosen_and_backend, model, num_bytes, plan=Plan(tp=NUM_RANKS), check=False)
        name = per_rank[0][0]
        ours, theirs = (_slowest([times[which] for _, *times in per_rank]) for which in (0, 1))
        gain = ratio(theirs, ours).median_s
        what = f"all_reduce of {bytes_text(num_bytes)} on {NUM_RANKS} ranks, chosen by the model from send and recv"
        found.append(Row("C4", what, f"{gain:.1f}x: {name} {ours}, dist {theirs}", ">= 2x, aim 3x", gain >= 2))
    return found


def chosen_and_backend(
    mesh: Mesh, model: CostModel, num_bytes: int, rounds: int = ROUNDS
) -> tuple[str, list[float], list[float]]:
    """(algorithm, its seconds, dist.all_reduce's seconds) of one call, round by round, in turns."""
    axis = mesh["tp"]
    cheapest = Cheapest(model, axis, transports=("send_recv",))
    tensor = torch.zeros(num_bytes // 4)
    works = [lambda: cheapest.all_reduce(tensor), lambda: comm.all_reduce(tensor, axis)]
    times: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            comm.barrier(axis)
            started = time.perf_counter()
            for _ in range(20):
                works[which]()
            times[which].append((time.perf_counter() - started) / 20)
    mesh.recorder.transfers.clear()
    return cheapest.choice("all_reduce", num_bytes).algorithm, times[0][1:], times[1][1:]


def _slowest(per_rank: Sequence[Sequence[float]]) -> Stats:
    return Stats(tuple(slowest(samples) for samples in zip(*per_rank, strict=True)))
