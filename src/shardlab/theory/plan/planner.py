"""Which plan to run: every plan of a cluster, what speaks against it, and the rest in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from shardlab.theory.cost import TimeOf
from shardlab.theory.degrees import Plan
from shardlab.theory.hardware import Cluster
from shardlab.theory.plan.fits import Dropped, check_degrees, check_memory, memory, most_sequences
from shardlab.theory.plan.forecast import Forecast, Forecaster
from shardlab.theory.plan.links import LevelTime, Pricing, one_level
from shardlab.theory.plan.prices import on_cluster
from shardlab.theory.plan.workload import Workload
from shardlab.theory.transformer import Shape


@dataclass(frozen=True)
class Outcome:
    """What a search found. `ranked` meet the SLO, most tokens a second first; `missed` do not, the nearest first."""

    ranked: tuple[Forecast, ...]
    missed: tuple[Forecast, ...]
    dropped: tuple[Dropped, ...]

    @property
    def best(self) -> Forecast | None:
        """The plan to run; None where none meets the SLO, or none fits."""
        return self.ranked[0] if self.ranked else None

    @property
    def nearest(self) -> Forecast | None:
        """Where no plan meets the SLO: the one that comes closest, at the smallest load."""
        return self.missed[0] if self.missed and not self.ranked else None


def search(
    shape: Shape,
    cluster: Cluster,
    workload: Workload,
    *,
    time_of: TimeOf | None = None,
    plans: Iterable[Plan] | None = None,
) -> Outcome:
    """Every plan that fits, ranked by output tokens a second of the cluster among those that meet the SLO.

    time_of: seconds of a collective among so many ranks, whatever lies between them, such as a CostModel's time_s; None
    is prices.on_cluster. plans: None for all of the cluster (enumerate_plans).
    """
    level_time: LevelTime = on_cluster(cluster) if time_of is None else one_level(time_of)
    found, dropped = [], []
    for plan in enumerate_plans(shape, cluster, workload) if plans is None else plans:
        one = forecast(shape, cluster, workload, plan, level_time)
        (dropped if isinstance(one, Dropped) else found).append(one)
    return in_order(found, dropped, workload)


def in_order(found: Iterable[Forecast], dropped: Iterable[Dropped], workload: Workload) -> Outcome:
    """Forecasts in the order of the search: of equals, fewer GPUs first, then the plan with less tp."""
    ranked = sorted(
        found, key=lambda one: (-one.tokens_per_s, one.plan.world_size, one.plan.tp, one.plan.pp, one.plan.ep)
    )
    met = [one for one in ranked if one.misses(workload) <= 1]
    missed = sorted((one for one in ranked if one.misses(workload) > 1), key=lambda one: one.misses(workload))
    return Outcome(tuple(met), tuple(missed), tuple(dropped))


def forecast(
    shape: Shape, cluster: Cluster, workload: Workload, plan: Plan, level_time: LevelTime
) -> Forecast | Dropped:
    """One plan, with as many sequences as the workload says; where it does not, as many as fit and meet the SLO."""
    wrong = check_degrees(shape, plan, workload)
    if wrong:
        return wrong
    machine = cluster.node.accelerator
    held = memory(shape, plan, machine.memory_bytes, workload)
    wrong = check_memory(plan, held, workload)
    if wrong:
        return wrong
    pricing = Pricing(plan, cluster.node.gpus_per_node, level_time)
    forecaster = Forecaster(shape, plan, machine, workload, pricing)

    def at(batch: int) -> Forecast:
        return forecaster.at(batch, held, cluster.world_size)

    if workload.concurrency is not None:
        return at(-(-workload.concurrency // plan.dp))
    return _largest(at, most_sequences(held, workload), workload)


def _largest(at: Callable[[int], Forecast], most: int, workload: Workload) -> Forecast:
    """The largest load of 1..most that meets the SLO; 1 where none does. Every time grows with the load."""
    low, high = at(1), at(most)
    if low.misses(workload) > 1 or high.misses(workload) <= 1:
        return low if low.misses(workload) > 1 else high
    below, above, turn = 1, most, 0
    while above - below > 1:
        # Times are nearly straight lines: aim for where the line meets the limit. Every third turn cuts in half.
        part = (1 - low.misses(workload)) / (high.misses(workload) - low.misses(workload)) if turn % 3 < 2 else 0.5
        middle = min(max(below + int(part * (above - below)), below + 1), above - 1)
        turn += 1
        one = at(middle)
        if one.misses(workload) <= 1:
            low, below = one, middle
        else:
            high, above = one, middle
    return low


def enumerate_plans(shape: Shape, cluster: Cluster, workload: Workload) -> Iterator[Plan]:
    """dp x pp x cp x tp over all GPUs, or over a divisor of them where the number of sequences is given, with every ep.

    Without a given concurrency a plan for part of the cluster is never the best: more replicas of it are better.
    """
    for world_size in _divisors(cluster.world_size):
        if workload.concurrency is None and world_size < cluster.world_size:
            continue
        for tp in _divisors(world_size):
            for cp in _divisors(world_size // tp):
                for pp in _divisors(world_size // tp // cp):
                    dp = world_size // tp // cp // pp
                    for ep in _expert_degrees(shape, dp * cp * tp, tp):
                        yield Plan(dp=dp, pp=pp, cp=cp, tp=tp, ep=ep)


def _expert_degrees(shape: Shape, ranks: int, tp: int) -> list[int]:
    """1, and for a mixture of experts the multiples of tp: an ep inside a tp axis sends and does what ep=1 does."""
    if shape.moe is None:
        return [1]
    return [ep for ep in _divisors(ranks) if ep == 1 or (ep > tp and ep % tp == 0)]


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]
