"""The planner held to reality: each plan forecast on this machine as its ranks have it, and clocked, in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import psutil

from shardlab.launch import Ranks
from shardlab.measure.fit import Sample, fit
from shardlab.measure.timer import Stats, interleave
from shardlab.programs import serve
from shardlab.sweep.rates import collective_s, product_rates
from shardlab.theory.cost import CostModel, critical_path
from shardlab.theory.degrees import Plan
from shardlab.theory.hardware import Accelerator, Cluster, Link, Node
from shardlab.theory.plan import Outcome, Workload
from shardlab.theory.plan.planner import in_order, search

NUM_RANKS = 4
# Every plan of four ranks that the code can run. One sequence leaves replicas idle: it gets the plans without any.
FOUR = (Plan(dp=4), Plan(dp=2, tp=2), Plan(tp=4))
ALONE = (Plan(), Plan(tp=2), Plan(tp=4))
SHAPE = serve.TOY
LINK_BYTES = (1 << 12, 1 << 15, 1 << 18, 1 << 21)
ROUNDS = 7


@dataclass(frozen=True)
class Rates:
    """What one rank of a plan can do while all the others work too."""

    flops: float  # in products with as many rows as the plan's prefills have
    read_Bps: float  # of weights, in products with as many rows as its decode steps have
    collectives_s: dict[str, list[float]]  # op -> seconds at each of LINK_BYTES, on all tp axes at once


@dataclass(frozen=True)
class Measured:
    """One workload: the search's outcome, and the seconds of the whole job under each of its plans."""

    outcome: Outcome
    seconds: dict[Plan, Stats]

    @property
    def behind(self) -> float:
        """How much longer the plan that was ranked first took than the best one: 0 where it is the best."""
        best = min(stats.median_s for stats in self.seconds.values())
        return self.seconds[self.outcome.ranked[0].plan].median_s / best - 1


def workloads() -> dict[str, Workload]:
    """Toy workloads that want different plans: one sequence, many, and long prompts."""

    def toy(input_tokens: int, output_tokens: int, concurrency: int) -> Workload:
        return Workload(input_tokens, output_tokens, concurrency, stored="fp32", kv="fp32", arrival="together")

    return {
        "one sequence, long answer": toy(16, 24, 1),
        "16 sequences, long answers": toy(16, 16, 16),
        "8 long prompts, short answers": toy(96, 4, 8),
    }


def hold(ranks: Ranks, workload: Workload) -> Measured:
    """Clock every plan, in turns, and its machine right before it: the two have the same neighbours on the machine."""
    plans = FOUR if (workload.concurrency or 1) >= NUM_RANKS else ALONE
    seen: dict[Plan, list[Rates]] = {plan: [] for plan in plans}

    def contender(plan: Plan) -> float:
        seen[plan].append(rates_of(ranks, plan, workload))
        return job_s(ranks, plan, workload)

    timed = interleave({str(plan): lambda plan=plan: contender(plan) for plan in plans}, ROUNDS)
    outcome = predict({plan: median_of(some) for plan, some in seen.items()}, workload)
    return Measured(outcome, {plan: timed[str(plan)] for plan in plans})


def job_s(ranks: Ranks, plan: Plan, workload: Workload) -> float:
    """Seconds until the last replica has answered its share."""
    served = ranks.run(
        serve.clock,
        plan=plan,
        check=False,
        batch=workload.concurrency,
        input_tokens=workload.input_tokens,
        output_tokens=workload.output_tokens,
    )
    return max(one.total_s for one in served)


def predict(rates: Mapping[Plan, Rates], workload: Workload) -> Outcome:
    """One search a plan, each on the machine as that plan's ranks have it; then all in order."""
    found, dropped = [], []
    for plan, one in rates.items():
        unused = Link(0.0, 1e15, "not used: the collectives are measured")
        memory_bytes = psutil.virtual_memory().total / NUM_RANKS
        accelerator = Accelerator("this machine", memory_bytes, one.read_Bps, one.flops, unused)
        cluster = Cluster(Node("this machine", accelerator, NUM_RANKS, unused, nics=0))
        outcome = search(SHAPE, cluster, workload, time_of=fitted(one, plan.tp).time_s, plans=[plan])
        found += [*outcome.ranked, *outcome.missed]
        dropped += outcome.dropped
    return in_order(found, dropped, workload)


def rates_of(ranks: Ranks, plan: Plan, workload: Workload) -> Rates:
    """One calibration with the plan's ranks busy: the slowest rank's numbers.

    A CPU reads weights at another rate for one row than for sixteen, so each rate is taken with as many rows as the
    plan's own decode steps and prefills have.
    """
    num_rows = -(-(workload.concurrency or 1) // plan.dp)
    busy = Plan(tp=plan.world_size)
    timed = ranks.run(product_rates, num_rows, num_rows * workload.input_tokens, plan=busy, check=False)
    clocked = ranks.run(collective_s, LINK_BYTES, plan=plan, check=False) if plan.tp > 1 else [{}]
    slowest = {op: [max(column) for column in zip(*(one[op] for one in clocked), strict=True)] for op in clocked[0]}
    return Rates(min(one[0] for one in timed), min(one[1] for one in timed), slowest)


def median_of(some: Sequence[Rates]) -> Rates:
    """Number by number."""
    collectives_s = {
        op: [median(column) for column in zip(*(one.collectives_s[op] for one in some), strict=True)]
        for op in some[0].collectives_s
    }
    return Rates(median(one.flops for one in some), median(one.read_Bps for one in some), collectives_s)


def fitted(rates: Rates, tp: int) -> CostModel:
    """The collectives as measure.calibrate fits them: one Cost for each."""
    costs = {}
    for op, seconds in rates.collectives_s.items():
        paths = [critical_path(op, num_bytes=num_bytes, world_size=tp) for num_bytes in LINK_BYTES]
        costs[op, "ring", "backend", tp] = fit(Sample(*path, one) for path, one in zip(paths, seconds, strict=True))
    return CostModel(costs)
