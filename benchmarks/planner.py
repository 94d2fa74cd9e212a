"""What the planner ranks first of this machine's plans, against what is measured best."""

from __future__ import annotations

from benchmarks import Row
from shardlab import Ranks
from shardlab.measure.timer import Stats
from shardlab.sweep.plans import NUM_RANKS, hold, workloads
from shardlab.theory.degrees import Plan
from shardlab.theory.plan import Forecast


def rows() -> list[Row]:
    found = []
    with Ranks(NUM_RANKS, backend="gloo", timeout_s=300) as ranks:
        for name, workload in workloads().items():
            result = hold(ranks, workload)
            first = result.outcome.ranked[0]
            what = f"first of {len(result.seconds)} plans, toy model, {name}: {_name(first.plan)}"
            found.append(
                Row("plan", what, f"{result.behind:+.0%} behind the best measured", "<= 15 %", result.behind <= 0.15)
            )
            found += [_detail(one, result.seconds[one.plan]) for one in result.outcome.ranked]
    return found


def _detail(one: Forecast, seconds: Stats) -> Row:
    off = seconds.median_s / one.life_s - 1
    return Row("", f"  {_name(one.plan)}", f"{seconds}, predicted {one.life_s:.3g} s (measured {off:+.0%})")


def _name(plan: Plan) -> str:
    return f"dp {plan.dp} x tp {plan.tp}"
