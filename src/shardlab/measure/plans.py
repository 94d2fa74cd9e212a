"""The planner held to reality: what it ranks first of this machine's plans, against what is measured best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch
import torch.nn.functional as F

from shardlab import Plan, Ranks, comm
from shardlab.measure.fit import Sample, fit
from shardlab.measure.timer import Stats, interleave
from shardlab.mesh import Mesh
from shardlab.programs import machine, serve
from shardlab.theory.cost import CostModel, critical_path
from shardlab.theory.hardware import Accelerator, Cluster, Link, Node
from shardlab.theory.plan import Outcome, Workload
from shardlab.theory.plan.planner import in_order, search

NUM_RANKS = 4
# Every plan of four ranks that the code can run, and those of two and one: where one sequence leaves replicas idle.
PLANS = (Plan(dp=4), Plan(dp=2, tp=2), Plan(tp=4), Plan(dp=2), Plan(tp=2), Plan())
SHAPE = serve.TOY
LINK_BYTES = (1 << 12, 1 << 15, 1 << 18, 1 << 21)
ROUNDS = 5


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
    """Calibrate this machine for every plan of PLANS, forecast them, and clock those that fit."""
    machines = {plan: (this_machine(ranks, plan, workload), links_of(ranks, plan)) for plan in PLANS}
    return measure(ranks, machines, workload)


def measure(ranks: Ranks, machines: Mapping[Plan, tuple[Accelerator, CostModel]], workload: Workload) -> Measured:
    """Predict every plan on its own machine, and clock those that fit, in turns."""
    outcome = predict(machines, workload)

    def job_s(plan: Plan) -> float:
        served = ranks.run(
            serve.clock,
            plan=plan,
            check=False,
            batch=workload.concurrency,
            input_tokens=workload.input_tokens,
            output_tokens=workload.output_tokens,
        )
        return max(one.total_s for one in served)

    plans = [one.plan for one in outcome.ranked]
    timed = interleave({_name(plan): lambda plan=plan: job_s(plan) for plan in plans}, ROUNDS)
    return Measured(outcome, {plan: timed[_name(plan)] for plan in plans})


def predict(machines: Mapping[Plan, tuple[Accelerator, CostModel]], workload: Workload) -> Outcome:
    """One search a plan, each on the machine as it is with that plan's ranks busy; then all in order."""
    found, dropped = [], []
    for plan, (accelerator, model) in machines.items():
        cluster = Cluster(Node("this machine", accelerator, NUM_RANKS, accelerator.link, nics=0))
        one = search(SHAPE, cluster, workload, time_of=model.time_s, plans=[plan])
        found += [*one.ranked, *one.missed]
        dropped += one.dropped
    return in_order(found, dropped, workload)


def this_machine(ranks: Ranks, plan: Plan, workload: Workload) -> Accelerator:
    """Arithmetic and memory as a rank of this plan has them while all the others work too.

    A CPU reads weights at another rate for one row than for sixteen, so each rate is taken with as many rows as the
    plan's own decode steps and prefills have.
    """
    rows_of = -(-(workload.concurrency or 1) // plan.dp)
    busy = Plan(tp=plan.world_size)
    timed = ranks.run(product_rates, rows_of, rows_of * workload.input_tokens, plan=busy, check=False)
    flops, read_Bps = (min(one[kind] for one in timed) for kind in (0, 1))
    memory_bytes = psutil.virtual_memory().total / NUM_RANKS
    return Accelerator("this machine", memory_bytes, read_Bps, flops, Link(0.0, 1e15, "not used: links_of has them"))


def product_rates(mesh: Mesh, decode_rows: int, prefill_rows: int) -> tuple[float, float]:
    """(FLOP/s of products with prefill_rows rows, bytes of weights a second in products with decode_rows rows)."""
    weights = [torch.full((SHAPE.d_model, SHAPE.d_model), 0.5) for _ in range(32)]  # 128 MiB: larger than the caches

    def seconds(num_rows: int, times: int) -> float:
        x = torch.ones(num_rows, SHAPE.d_model)
        return machine.median_s(mesh, mesh["tp"], lambda: [F.linear(x, w) for w in weights[:times]]) / times

    num_weights = SHAPE.d_model**2
    return 2 * prefill_rows * num_weights / seconds(prefill_rows, 8), 4 * num_weights / seconds(decode_rows, 32)


def links_of(ranks: Ranks, plan: Plan) -> CostModel:
    """The model's collectives on all tp axes of the plan at once, fitted as measure.calibrate fits them."""
    if plan.tp == 1:
        return CostModel({})
    timed = ranks.run(collective_s, LINK_BYTES, plan=plan, check=False)
    costs = {}
    for op in timed[0]:
        samples = []
        for place, num_bytes in enumerate(LINK_BYTES):
            path = critical_path(op, num_bytes=num_bytes, world_size=plan.tp)
            samples.append(Sample(*path, max(one[op][place] for one in timed)))
        costs[op, "ring", "backend", plan.tp] = fit(samples)
    return CostModel(costs)


def collective_s(mesh: Mesh, sizes: tuple[int, ...]) -> dict[str, list[float]]:
    """Median seconds of the model's two collectives at each size, on all tp axes of the mesh at once."""
    tp = mesh["tp"]
    found: dict[str, list[float]] = {"all_reduce": [], "all_gather": []}
    for num_bytes in sizes:
        whole, part = torch.zeros(num_bytes // 4), torch.zeros(num_bytes // 4 // tp.size)
        found["all_reduce"].append(machine.median_s(mesh, tp, lambda t=whole: comm.all_reduce(t, tp)))
        found["all_gather"].append(machine.median_s(mesh, tp, lambda t=part: comm.all_gather(t, tp)))
    return found


def _name(plan: Plan) -> str:
    return f"dp {plan.dp} x tp {plan.tp}"
