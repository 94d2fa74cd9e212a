"""What `shardlab plan` prints: the ranked table, what was dropped, how to start the best, what the words mean."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from shardlab.cli.plain import Mistake
from shardlab.theory.degrees import Plan
from shardlab.theory.hardware import Cluster
from shardlab.theory.plan import Dropped, Forecast, Outcome, Workload
from shardlab.theory.transformer import Shape
from shardlab.theory.units import decimal_bytes_text, seconds_text

# Each word of the table: what it stands for, and the lab cell that measures it (file#label, or a whole lab).
TERMS: dict[str, tuple[str, str]] = {
    "KV tokens": (
        "tokens of context that a replica has room for beside the weights",
        "labs/03_tensor.ipynb#kv-cache-floor",
    ),
    "HBM": ("reading weights and KV cache", "labs/07_cost.ipynb#held-to-reality"),
    "arithmetic": ("matrix products and attention at the data sheet's rate", "labs/07_cost.ipynb#held-to-reality"),
    "latency": ("collectives, if they carried next to nothing", "labs/01_interconnects.ipynb#one-message"),
    "bandwidth": ("collectives, the part that grows with their bytes", "labs/01_interconnects.ipynb#cost-model"),
    "bubble": ("waiting for other pipeline stages; predicted only", "labs/07_cost.ipynb#tp-inside-pp-across"),
}
# Axes that the planner knows, and the lab that brings their code.
NOT_YET = {"pp": "lab 04", "ep": "lab 05", "cp": "lab 06"}


def report(
    model: str,
    shape: Shape,
    cluster: Cluster,
    workload: Workload,
    outcome: Outcome,
    top: int | None,
    console: Console,
) -> None:
    """Print it all. Raises Mistake where no plan fits, or none meets the SLO: then the nearest is named."""
    if not outcome.ranked:
        raise Mistake(_nothing(shape, cluster, workload, outcome))
    shown = outcome.ranked[:top]
    console.print(_table(f"{model} on {cluster.name}: {_asked(workload)}", shown, workload))
    if len(shown) < len(outcome.ranked):
        console.print(f"and {len(outcome.ranked) - len(shown)} more plans that meet it (--all)")
    if outcome.missed:
        console.print(f"{len(outcome.missed)} plans fit and miss the SLO; the nearest: {_reached(outcome.missed[0])}")
    for line in _dropped(outcome.dropped, everything=top is None):
        console.print(line)
    console.print()
    for line in launch_lines(model, shape, cluster, workload, outcome.ranked):
        console.print(line, soft_wrap=True)
    console.print()
    for line in _legend():
        console.print(line)


def plan_text(plan: Plan) -> str:
    """Plan(dp=2, tp=8) -> 'dp2 tp8'; axes of one rank are left out."""
    degrees = {**plan.sizes, "ep": plan.ep}
    return " ".join(f"{axis}{degree}" for axis, degree in degrees.items() if degree > 1) or "1 GPU"


def _asked(workload: Workload) -> str:
    limits = [
        f"{name} <= {seconds_text(limit)}"
        for name, limit in (("TTFT", workload.slo_ttft_s), ("TPOT", workload.slo_tpot_s))
        if limit is not None
    ]
    load = f"{workload.input_tokens:,} tokens in, {workload.output_tokens:,} out"
    if workload.concurrency is not None:
        load += f", {workload.concurrency:,} sequences in flight"
    return f"{load}, weights {workload.stored}, KV {workload.kv}; {', '.join(limits) or 'no SLO'}"


def _table(title: str, forecasts: Sequence[Forecast], workload: Workload) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("plan", "weights", "KV tokens", "in flight", "TTFT", "TPOT", "T_lower", "tok/s/GPU", "bound by"):
        table.add_column(name, justify="left" if name in ("plan", "bound by") else "right", no_wrap=True)
    for one in forecasts:
        share = one.terms[one.bound] / sum(one.terms.values())
        table.add_row(
            plan_text(one.plan),
            decimal_bytes_text(one.memory.weight_bytes),
            f"{one.memory.kv_tokens:,}",
            f"{one.sequences:,} of {one.most_sequences:,}",
            seconds_text(one.ttft_s),
            seconds_text(one.tpot_s),
            seconds_text(one.decode.lower_s),
            f"{one.tokens_per_s_per_gpu:,.0f}" if one.tokens_per_s_per_gpu >= 10 else f"{one.tokens_per_s_per_gpu:.1f}",
            f"{one.bound} {share:.0%}",
        )
    return table


def _dropped(dropped: Sequence[Dropped], everything: bool) -> list[str]:
    """One line for each kind of reason (or for each plan)."""
    if everything:
        return [f"dropped: {plan_text(one.plan)}: {one.reason}" for one in dropped]
    kinds = dict.fromkeys(one.kind for one in dropped)
    lines = []
    for kind in kinds:
        of_kind = [one for one in dropped if one.kind == kind]
        last = of_kind[-1]  # the widest split: what comes nearest to fitting
        lines.append(f"dropped for {kind}: {len(of_kind)}, such as {plan_text(last.plan)}: {last.reason}")
    return lines


def _reached(one: Forecast) -> str:
    sequences = "1 sequence" if one.sequences == 1 else f"{one.sequences:,} sequences"
    return (
        f"{plan_text(one.plan)} reaches TTFT {seconds_text(one.ttft_s)} and TPOT {seconds_text(one.tpot_s)} "
        f"with {sequences}"
    )


def _nothing(shape: Shape, cluster: Cluster, workload: Workload, outcome: Outcome) -> str:
    nearest = outcome.nearest
    if nearest is None:
        reasons = "\n  ".join(_dropped(outcome.dropped, everything=False))
        return (
            f"no plan of {cluster.name} fits {shape.name or 'the model'} with weights in {workload.stored}; "
            f"more nodes, fewer bits (--precision) or fewer tokens would help\n  {reasons}"
        )
    asked = [
        f"{option} {seconds_text(limit)}"
        for option, limit, reached in (
            ("--slo-ttft", workload.slo_ttft_s, nearest.ttft_s),
            ("--slo-tpot", workload.slo_tpot_s, nearest.tpot_s),
        )
        if limit is not None and reached > limit
    ]
    return f"{' and '.join(asked)}: no plan on {cluster.name} reaches that; the nearest: {_reached(nearest)}"


def launch_lines(
    model: str, shape: Shape, cluster: Cluster, workload: Workload, ranked: Sequence[Forecast]
) -> list[str]:
    """How to start the best plan whose code is there, and what is missing for the best of all."""
    best, lines = ranked[0], []
    missing = missing_code(shape, best.plan, workload)
    if missing:
        lines.append(f"not runnable yet: {plan_text(best.plan)} ({'; '.join(missing)})")
    runnable = next((one for one in ranked if not missing_code(shape, one.plan, workload)), None)
    if runnable is None:
        return [*lines, "no plan of the table is runnable yet"]
    lines.append(f"run {plan_text(runnable.plan)} with random weights, on every node:")
    return [*lines, "  " + command(model, cluster, workload, runnable)]


def missing_code(shape: Shape, plan: Plan, workload: Workload) -> list[str]:
    """What our code lacks for this plan; empty where it can be run."""
    missing = [f"{axis}: {lab}" for axis, lab in NOT_YET.items() if getattr(plan, axis) > 1]
    if shape.moe is not None and plan.ep == 1:
        missing.append("experts: lab 05")
    if shape.mla is not None:
        missing.append("latent attention")
    if workload.stored not in ("bf16", "fp16", "fp32"):
        missing.append(f"{workload.stored} weights")
    if workload.kv not in ("bf16", "fp16", "fp32") or workload.kv != workload.stored:
        missing.append(f"a KV cache in {workload.kv} beside {workload.stored} weights")
    return missing


def command(model: str, cluster: Cluster, workload: Workload, one: Forecast) -> str:
    """The torchrun line of a plan, the same on every node."""
    ranks, per_node = one.plan.world_size, cluster.node.gpus_per_node
    nodes = next(n for n in range(1, ranks + 1) if ranks % n == 0 and ranks // n <= per_node)
    meet = " --rdzv-backend=c10d --rdzv-endpoint=FIRST_NODE:29500" if nodes > 1 else ""
    dtype = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[workload.stored]
    settings = {
        "model": model,
        "batch": one.sequences,
        "input_tokens": workload.input_tokens,
        "output_tokens": workload.output_tokens,
        "prompts_at_once": 1,
        "dtype": dtype,
    }
    given = " ".join(f"--set {name}={value}" for name, value in settings.items())
    return (
        f"torchrun --nnodes={nodes} --nproc-per-node={ranks // nodes}{meet} -m shardlab run serve.clock "
        f"--dp {one.plan.dp} --tp {one.plan.tp} {given}"
    )


def _legend() -> list[str]:
    """What the columns and the bounds mean, with the lab that measures each."""
    lines = [
        "T_lower: a decode step with all communication hidden. TPOT hides none, and has the prefills in between.",
        "tok/s/GPU: output tokens, by all GPUs of the cluster. Rates are the data sheets': nothing runs faster.",
    ]
    for term, (meaning, lab) in TERMS.items():
        lines.append(f"{term}: {meaning}" + (f" ({lab})" if lab else ""))
    return lines
