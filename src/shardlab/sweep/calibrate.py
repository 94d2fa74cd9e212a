"""A cost model of this machine in a few seconds: a few sizes of every implementation, timed in turns and fitted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from shardlab.algorithms import SYMMETRIC, Implementation
from shardlab.launch import Ranks
from shardlab.measure.fit import Sample, fit, fit_line
from shardlab.measure.machine import num_cores
from shardlab.measure.timer import Stats
from shardlab.sweep.driver import cells_of, journal_of, runnable, time_on
from shardlab.sweep.fused_norm import time_fused_norm
from shardlab.sweep.inputs import Cell
from shardlab.theory.cost import CostModel, FusedNorm, critical_path
from shardlab.theory.degrees import Plan

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
TRANSPORTS = ("backend", "shared_memory")
# 1 KiB to 2 MiB. Many sizes rather than many rounds: what disturbs one of them weighs less. From about 4 MiB on, the
# tensors of a call no longer fit the caches of a core, every byte costs more, and no term of the model says so.
SIZES = tuple(1 << exponent for exponent in (10, 12, 14, 16, 18, 20, 21))
ROUNDS = 15
SAMPLE_S = 0.002  # many short samples: a neighbour on the machine spoils some of them, and the median does not see it

# Ranks that outnumber cores wait for turns, and waiting only ever adds time. In the few rounds that three seconds allow
# it still shows in a median, so there the lower quartile stands for the machine.
_SHARED = 25

# Of the budget, what the program's start and end and the fits take.
_AROUND_S = 0.25


def calibrate(
    ranks: Ranks,
    world_size: int | None = None,
    budget_s: float = 3.0,
    *,
    ops: Sequence[str] = OPS,
    transports: Sequence[str] = TRANSPORTS,
    sizes: Sequence[int] = SIZES,
) -> CostModel:
    """The model of world_size ranks (default: all of the pool), within `budget_s` seconds once the pool is warm.

    Everything in the budget is counted: setting up, timing, fitting. Each implementation of `ops` over `transports`
    gets its own constants, fitted in relative error over up to ROUNDS rounds. On GPUs that reach each other's memory,
    add "symmetric_memory" to the transports: the kernels then compete with NCCL. The model is meant for
    sizes between the smallest and the largest of `sizes`.
    Raises ValueError where nothing is left to measure, or for a budget too small for one round of anything.
    """
    began = time.monotonic()
    degree = ranks.world_size if world_size is None else world_size
    if not 2 <= degree <= ranks.world_size:
        raise ValueError(f"world_size={degree}; allowed: 2..{ranks.world_size}, the size of the pool")
    if not budget_s >= 1:
        raise ValueError(f"budget_s={budget_s}; allowed: 1 or more seconds")
    known = (*runnable(ranks.backend), *SYMMETRIC)
    chosen = [one for one in known if one.op in ops and one.transport in transports]
    if not chosen or len(set(sizes)) < 3:
        raise ValueError(f"ops={ops}, transports={transports}, sizes={sizes}: one known op and transport, three sizes")
    ranks.start()
    cells = cells_of(chosen, sizes, degree)
    timed = time_all(ranks, cells, degree, rounds=ROUNDS, budget_s=budget_s - _AROUND_S - (time.monotonic() - began))
    return fitted(timed, degree, _SHARED if degree > num_cores() else 50)


def time_all(
    ranks: Ranks, cells: Sequence[Cell], degree: int, *, rounds: int, budget_s: float | None = None
) -> dict[Cell, Stats]:
    """Every cell's samples, all of them timed in turns in one run."""
    with journal_of(degree, len(cells), rounds) as journal:
        time_on(ranks, cells, degree, journal, sample_s=SAMPLE_S, budget_s=budget_s)
        timed = {cell: journal.stats(number) for number, cell in enumerate(cells)}
    return {cell: stats for cell, stats in timed.items() if stats is not None}


def fitted(timed: Mapping[Cell, Stats], degree: int, percent: float = 50) -> CostModel:
    """One Cost for each implementation, from this percentile of the samples at each of its sizes."""
    samples: dict[Implementation, list[Sample]] = {}
    for cell, stats in timed.items():
        one = cell.implementation
        hops, path = critical_path(one.op, num_bytes=cell.num_bytes, world_size=degree, algorithm=one.algorithm)
        samples.setdefault(one, []).append(Sample(hops, path, stats.percentile_s(percent)))
    return CostModel({(one.op, one.algorithm, one.transport, degree): fit(found) for one, found in samples.items()})


def calibrate_fused_norm(
    ranks: Ranks,
    d_model: int,
    rows: Sequence[int] = (1, 8, 64),
    *,
    world_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    rounds: int = 9,
    calls: int = 10,
) -> FusedNorm:
    """The all-reduce that adds the residual and norms, against the norm alone, on tensors [rows, d_model].

    For choose.Cheapest, which fuses where that is forecast to pay. Needs GPUs that reach each other's memory, or
    interpreted kernels. Raises ValueError for fewer than two numbers of rows.
    """
    degree = ranks.world_size if world_size is None else world_size
    if len(set(rows)) < 2:
        raise ValueError(f"rows={tuple(rows)}: two different numbers or more are needed")
    timed = ranks.run(time_fused_norm, d_model, tuple(rows), dtype, rounds, calls, plan=Plan(tp=degree), check=False)
    fused, norm = [], []
    for place, count in enumerate(rows):
        num_bytes = count * d_model * dtype.itemsize
        for found, which in ((fused, 0), (norm, 1)):  # a collective ends when its last rank does
            seconds = Stats(tuple(map(max, *(one[place][which] for one in timed)))).median_s
            found.append(Sample(1, num_bytes, seconds))
    return FusedNorm(fit_line(fused), fit_line(norm))
