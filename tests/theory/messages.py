"""A forward on every rank of a plan, message by message: an engine of nothing but senders, receivers and bytes.

It shares no formula with theory.ledger. Sizes are to divide: tp divides heads, V and every tensor, cp divides S.
"""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

from shardlab.theory.degrees import Plan
from shardlab.theory.transformer import Shape

Rank = tuple[int, int, int, int]  # dp, pp, cp, tp


class Wire:
    """What every rank has sent over each axis, and in how many messages."""

    def __init__(self) -> None:
        self.sent: Counter[tuple[str, Rank]] = Counter()
        self.messages: Counter[tuple[str, Rank]] = Counter()

    def send(self, axis: str, sender: Rank, receiver: Rank, num_bytes: int) -> None:
        assert sender != receiver
        self.sent[axis, sender] += num_bytes
        self.messages[axis, sender] += 1

    def ring(self, axis: str, line: list[Rank], num_bytes: int, rounds: int) -> None:
        """Every rank passes a slice of the tensor to its successor, `rounds` times."""
        assert num_bytes % len(line) == 0
        for _ in range(rounds):
            for place, rank in enumerate(line):
                self.send(axis, rank, line[(place + 1) % len(line)], num_bytes // len(line))

    def all_reduce(self, line: list[Rank], num_bytes: int) -> None:
        if len(line) > 1:
            self.ring("tp", line, num_bytes, 2 * (len(line) - 1))

    def all_gather(self, line: list[Rank], num_bytes: int) -> None:
        if len(line) > 1:
            self.ring("tp", line, num_bytes, len(line) - 1)


def run(shape: Shape, plan: Plan, *, batch: int, seq: int, element: int, positions: int) -> Wire:
    """One prefill. `positions` logits a sequence are wanted on every cp rank."""
    wire, local = Wire(), seq // plan.cp
    hidden = batch * local * shape.d_model * element
    per_stage = shape.num_layers // plan.pp
    for dp, stage in product(range(plan.dp), range(plan.pp)):
        lines = [[(dp, stage, cp, tp) for tp in range(plan.tp)] for cp in range(plan.cp)]
        for line in lines:
            if stage == 0:
                wire.all_reduce(line, hidden)  # the embedding's rows are split
            for layer in range(stage * per_stage, (stage + 1) * per_stage):
                wire.all_reduce(line, hidden)  # attention's output
                if not has_exchange(shape, plan, layer):
                    wire.all_reduce(line, hidden)  # the MLP's output
                elif shape.moe is not None and shape.moe.num_shared:
                    wire.all_reduce(line, hidden)
                else:
                    wire.all_gather(line, hidden)
            if stage < plan.pp - 1:
                for rank in line:
                    wire.send("pp", rank, (dp, stage + 1, rank[2], rank[3]), hidden)
            else:
                wire.all_gather(line, batch * positions * shape.vocab_size * element)
        for _ in range(per_stage):
            for tp in range(plan.tp):
                pass_keys(wire, shape, plan, [(dp, stage, cp, tp) for cp in range(plan.cp)], batch * local, element)
    for stage in range(plan.pp):
        for layer in range(stage * per_stage, (stage + 1) * per_stage):
            if has_exchange(shape, plan, layer):
                exchange(wire, shape, plan, stage, batch * local // plan.tp, element)
    return wire


def has_exchange(shape: Shape, plan: Plan, layer: int) -> bool:
    return shape.moe is not None and layer >= shape.moe.num_dense_layers and plan.ep > plan.tp


def pass_keys(wire: Wire, shape: Shape, plan: Plan, line: list[Rank], tokens: int, element: int) -> None:
    """Keys and values go round until every rank has seen every chunk; each hands on what it got last."""
    heads = range(shape.num_heads * line[0][3] // plan.tp, shape.num_heads * (line[0][3] + 1) // plan.tp)
    groups = {head * shape.num_kv_heads // shape.num_heads for head in heads}
    chunk = tokens * len(groups) * shape.head_dim * 2 * element
    seen, last = [{place} for place in range(len(line))], list(range(len(line)))
    while any(len(chunks) < len(line) for chunks in seen):
        arriving = list(last)
        for place, rank in enumerate(line):
            after = (place + 1) % len(line)
            wire.send("cp", rank, line[after], chunk)
            arriving[after] = last[place]
            seen[after].add(last[place])
        last = arriving


def exchange(wire: Wire, shape: Shape, plan: Plan, stage: int, own: int, element: int) -> None:
    """Dispatch and combine, token by token: token j of a rank goes to experts j*k, j*k+1, ..., round and round."""
    assert shape.moe is not None
    experts, k = shape.moe.num_experts, shape.moe.experts_per_token
    ranks = [(dp, stage, cp, tp) for dp, cp, tp in product(range(plan.dp), range(plan.cp), range(plan.tp))]
    for start in range(0, len(ranks), plan.ep):
        group = ranks[start : start + plan.ep]
        home = {expert: group[expert * plan.ep // experts] for expert in range(experts)}
        for rank, token, copy in product(group, range(own), range(k)):
            expert = (token * k + copy) % experts
            if home[expert] != rank:
                wire.send("ep", rank, home[expert], shape.d_model * element)
                wire.send("ep", home[expert], rank, shape.d_model * element)


def moved_by_transpose(owners_before: dict[Any, int], owners_after: dict[Any, int]) -> Counter[int]:
    """How many elements leave each rank when every element goes from one owner to the other."""
    return Counter(rank for element, rank in owners_before.items() if owners_after[element] != rank)
