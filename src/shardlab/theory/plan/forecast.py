"""How a plan will do: time to the first token, time a token, tokens a second, and what holds it back."""

from __future__ import annotations

from dataclasses import dataclass

from shardlab.theory import ledger, per_rank, work
from shardlab.theory.capacity import Memory
from shardlab.theory.degrees import Plan
from shardlab.theory.hardware import Accelerator
from shardlab.theory.plan.links import NOTHING, CommTime, Pricing
from shardlab.theory.plan.workload import Workload
from shardlab.theory.roofline import Times
from shardlab.theory.transformer import Shape

# What a plan's time can go into, in the order of the legend.
TERMS = ("HBM", "arithmetic", "latency", "bandwidth", "bubble")


@dataclass(frozen=True)
class Stage:
    """One forward of one microbatch on the busiest rank of a stage, in seconds."""

    math_s: float
    hbm_s: float
    comms: CommTime  # inside the stage, nothing hidden but a ring behind the attention that it feeds
    boundary: CommTime  # the send to the next stage
    hidden_s: float = 0.0  # of the ring, behind arithmetic

    @property
    def busy_s(self) -> float:
        """Until the stage can take the next microbatch."""
        return max(self.math_s, self.hbm_s) + self.comms.total_s - self.hidden_s

    @property
    def through_s(self) -> float:
        """Until the next stage has the result."""
        return self.busy_s + self.boundary.total_s


@dataclass(frozen=True)
class Pass:
    """One forward of a replica's batch, as `microbatches` that follow one another through the stages."""

    stages: tuple[Stage, ...]
    microbatches: int

    @property
    def slowest(self) -> Stage:
        return max(self.stages, key=lambda stage: stage.through_s)

    @property
    def through_s(self) -> float:
        """From the first microbatch's start to the last one's end."""
        return sum(stage.through_s for stage in self.stages) + (self.microbatches - 1) * self.slowest.through_s

    @property
    def period_s(self) -> float:
        """Between two such forwards of the same sequences, when each needs the result of the one before (decode)."""
        first_back_s = sum(stage.through_s for stage in self.stages)
        return max(first_back_s, self.microbatches * self.slowest.through_s)

    @property
    def times(self) -> Times:
        """T_math, HBM time and T_comms of one microbatch through all stages: for T_lower and T_upper."""
        comms_s = sum(stage.comms.total_s + stage.boundary.total_s for stage in self.stages)
        return Times(sum(stage.math_s for stage in self.stages), sum(stage.hbm_s for stage in self.stages), comms_s)

    def terms(self, wall_s: float) -> dict[str, float]:
        """wall_s of the slowest stage's time, by cause. What is none of the others is waiting: the bubble."""
        slow, times = self.slowest, self.microbatches
        shown = 1 - slow.hidden_s / slow.comms.total_s if slow.hidden_s else 1.0
        found = {
            "HBM": times * slow.hbm_s if slow.hbm_s >= slow.math_s else 0.0,
            "arithmetic": times * slow.math_s if slow.math_s > slow.hbm_s else 0.0,
            "latency": times * (slow.comms.latency_s * shown + slow.boundary.latency_s),
            "bandwidth": times * (slow.comms.bandwidth_s * shown + slow.boundary.bandwidth_s),
        }
        return {**found, "bubble": max(0.0, wall_s - sum(found.values()))}


@dataclass(frozen=True)
class Forecast:
    """One plan under a workload. Nothing is hidden behind work but a ring behind its attention: times are T_upper."""

    plan: Plan
    sequences: int  # in flight, over all replicas
    memory: Memory
    most_sequences: int  # that the replicas have room for
    ttft_s: float
    tpot_s: float
    life_s: float  # of one sequence, from its prompt to its last token
    tokens_per_s: float  # output tokens of all replicas
    tokens_per_s_per_gpu: float  # by the GPUs of the cluster, idle ones included
    prefill: Times  # of one prompt (of a replica's share, where prompts arrive together)
    decode: Times  # of one step
    terms: dict[str, float]  # seconds of a sequence's life by cause: TERMS

    @property
    def bound(self) -> str:
        """What most of the time goes into."""
        return max(TERMS, key=lambda term: self.terms[term])

    def misses(self, workload: Workload) -> float:
        """How far over the SLO: 1.5 is 50 % too slow, at most 1 is met. 0 without an SLO."""
        asked = ((self.ttft_s, workload.slo_ttft_s), (self.tpot_s, workload.slo_tpot_s))
        return max((value / limit for value, limit in asked if limit is not None), default=0.0)


class Forecaster:
    """A plan on a machine: what it is asked for a batch, it works out."""

    def __init__(self, shape: Shape, plan: Plan, machine: Accelerator, workload: Workload, pricing: Pricing) -> None:
        self.shape, self.plan, self.machine, self.workload, self.pricing = shape, plan, machine, workload, pricing
        self._flops = arithmetic_flops(machine, workload)
        self._steps: dict[int, Pass] = {}
        last = plan.pp - 1
        stages, experts = per_rank.stages(shape, plan.pp), work.moe_layers(shape, plan)
        self._kinds = [(len(layers), experts[stage], stage == 0, stage == last) for stage, layers in enumerate(stages)]

    def forward(self, batch: int, *, seq: int, past: int = 0) -> Pass:
        """`batch` sequences of a replica, seq new tokens each, in at most pp microbatches."""
        shape, plan, load = self.shape, self.plan, self.workload
        microbatches = min(plan.pp, batch)
        micro, numbers = -(-batch // microbatches), load.weights.activation_bytes
        flops = work.stage_flops(shape, plan, batch=micro, seq=seq, past=past, logit_positions=1)
        moved = work.stage_hbm_bytes(shape, plan, load.weights, load.cache, batch=micro, seq=seq, past=past)
        inside: dict[tuple[int, int, bool, bool], tuple[CommTime, float, int]] = {}
        stages = []
        for stage, kind in enumerate(self._kinds):
            if kind not in inside:  # stages of one kind send the same
                inside[kind] = self._inside(stage, micro, seq, past, numbers)
            comms, hidden_s, num_bytes = inside[kind]
            boundary = self.pricing.boundary(stage, num_bytes) if stage < plan.pp - 1 else NOTHING
            math_s, hbm_s = flops[stage] / self._flops, moved[stage] / self.machine.hbm_Bps
            stages.append(Stage(math_s, hbm_s, comms, boundary, hidden_s))
        return Pass(tuple(stages), microbatches)

    def _inside(self, stage: int, batch: int, seq: int, past: int, numbers: int) -> tuple[CommTime, float, int]:
        """A stage's transfers, the seconds of its ring that are hidden, and the bytes that it hands on."""
        shape, plan = self.shape, self.plan
        if past:
            sent = ledger.decode_step(shape, plan, batch=batch, dtype_bytes=numbers, stage=stage)
        else:
            sizes = {"batch": batch, "seq": seq, "dtype_bytes": numbers, "stage": stage}
            sent = ledger.forward(shape, plan, **sizes, logit_positions=1)
        hidden_s = 0.0
        if plan.cp > 1 and not past:
            ring = [one for one in sent if (one.op, one.axis) == ("send", "cp")]
            hidden_s = min(self.pricing.comm_time(ring).total_s, self._attention_s(stage, batch, seq))
        return self.pricing.comm_time(sent), hidden_s, sent[-1].num_bytes if sent else 0

    def step(self, batch: int) -> Pass:
        """One decode step in the middle of the answers."""
        if batch not in self._steps:
            self._steps[batch] = self.forward(batch, seq=1, past=self.workload.mean_past)
        return self._steps[batch]

    def at(self, batch: int, held: Memory, num_gpus: int) -> Forecast:
        """`batch` sequences on each replica (fewer on some, where concurrency does not divide)."""
        load, plan = self.workload, self.plan
        together = load.arrival == "together"
        prefill, step = self.forward(batch if together else 1, seq=load.input_tokens), self.step(batch)
        steps = load.output_tokens - 1
        # In a steady engine the other sequences' prompts come in between. A pipeline takes one at each slot.
        others_s = 0.0 if together else (batch - 1) * prefill.slowest.through_s
        life_s = prefill.through_s + others_s + steps * step.period_s
        waits_s = 0.0 if together or batch == 1 else step.period_s  # for the step that is running
        sequences = plan.dp * batch if load.concurrency is None else load.concurrency
        first, every = prefill.terms(prefill.through_s + others_s), step.terms(step.period_s)
        if not together:
            first = _scaled(prefill, batch, prefill.through_s + others_s)
        tokens_per_s = sequences * load.output_tokens / life_s
        return Forecast(
            plan=plan,
            sequences=sequences,
            memory=held,
            most_sequences=plan.dp * (held.kv_tokens // load.context),
            ttft_s=prefill.through_s + waits_s,
            tpot_s=step.period_s + others_s / steps,
            life_s=life_s,
            tokens_per_s=tokens_per_s,
            tokens_per_s_per_gpu=tokens_per_s / num_gpus,
            prefill=prefill.times,
            decode=step.times,
            terms={term: first[term] + steps * every[term] for term in TERMS},
        )

    def _attention_s(self, stage: int, batch: int, seq: int) -> float:
        """Arithmetic of a stage's attention alone, all but a ring's own first chunk: what a ring can hide behind."""
        heads = max(len(one) for one in per_rank.query_heads(self.shape, self.plan.tp))
        layers = len(per_rank.stages(self.shape, self.plan.pp)[stage])
        flops = batch * layers * work.attention_flops(self.shape, heads, seq=seq) / self.plan.cp
        return flops / self._flops * (self.plan.cp - 1) / self.plan.cp


def arithmetic_flops(machine: Accelerator, workload: Workload) -> float:
    """The rate of the workload's arithmetic: fp8's where the weights are fp8 and the machine has one.

    Raises ValueError for fp8 on a machine without an fp8 rate.
    """
    if workload.weights.arithmetic != "fp8":
        return machine.bf16_flops
    if machine.fp8_flops is None:
        raise ValueError(
            f"precision={workload.stored!r}: {machine.name} has no fp8 rate in the catalogue; allowed: bf16"
        )
    return machine.fp8_flops


def _scaled(prefill: Pass, prompts: int, wall_s: float) -> dict[str, float]:
    """The terms of `prompts` prefills that follow one another on a pipeline."""
    each = Pass(prefill.stages, 1).terms(0.0)
    found = {term: prompts * seconds for term, seconds in each.items() if term != "bubble"}
    return {**found, "bubble": max(0.0, wall_s - sum(found.values()))}
