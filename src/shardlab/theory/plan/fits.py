"""Whether a plan fits: its degrees into the model, its weights and its KV cache into the GPUs' memory."""

from __future__ import annotations

from dataclasses import dataclass

from shardlab.theory import per_rank
from shardlab.theory.capacity import Memory, tightest
from shardlab.theory.degrees import Plan
from shardlab.theory.plan.workload import Workload
from shardlab.theory.split import check_tp
from shardlab.theory.transformer import Shape
from shardlab.theory.units import decimal_bytes_text


@dataclass(frozen=True)
class Dropped:
    """A plan that cannot run, and why: `kind` is the word that such plans are grouped by."""

    plan: Plan
    kind: str
    reason: str


def memory(shape: Shape, plan: Plan, memory_bytes: float, workload: Workload) -> Memory:
    """The memory of the plan's GPU that is full first: theory.capacity."""
    return tightest(shape, plan, memory_bytes, workload.weights, workload.cache)


def most_sequences(held: Memory, workload: Workload) -> int:
    """Sequences of the workload, prompt and whole answer, that one replica has room for."""
    return held.kv_tokens // workload.context


def check_degrees(shape: Shape, plan: Plan, workload: Workload) -> Dropped | None:
    """None, or the degree that this model or this workload does not allow."""
    try:
        check_tp(shape, plan.tp)
    except ValueError as error:
        return Dropped(plan, "heads", str(error))
    try:
        per_rank.stages(shape, plan.pp)
    except ValueError as error:
        return Dropped(plan, "layers", str(error))
    try:
        per_rank.expert_ranks(shape, plan)
    except ValueError as error:
        return Dropped(plan, "experts", str(error))
    if plan.cp > workload.input_tokens:
        return Dropped(plan, "prompt", f"cp={plan.cp}: a prompt of {workload.input_tokens} tokens has not one a rank")
    if workload.concurrency is not None and plan.dp > workload.concurrency:
        sequences = "one sequence leaves" if workload.concurrency == 1 else f"{workload.concurrency} sequences leave"
        return Dropped(plan, "replicas", f"dp={plan.dp}: {sequences} replicas without work")
    return None


def check_memory(plan: Plan, held: Memory, workload: Workload) -> Dropped | None:
    """None, or what does not fit into the GPUs' memory."""
    if held.free_bytes < 0:
        needed = decimal_bytes_text(held.weight_bytes + held.activation_bytes)
        usable = decimal_bytes_text(held.usable_bytes)
        return Dropped(
            plan, "weights", f"weights and activations take {needed} of the {usable} that a GPU has for them"
        )
    wanted = 1 if workload.concurrency is None else -(-workload.concurrency // plan.dp)
    if most_sequences(held, workload) < wanted:
        what = f"{wanted:,} sequences" if wanted > 1 else "one sequence"
        room = f"a replica has room for {held.kv_tokens:,} tokens of KV cache"
        return Dropped(plan, "KV cache", f"{room}, not for {what} of {workload.context:,}")
    return None
