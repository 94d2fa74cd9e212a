"""The points of the conformance lattice: a family of models and a plan, and which of them CI draws.

A new axis is a line in AXES, a new family a line in FAMILIES. Nothing else knows how many there are.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, product

from shardlab.theory.degrees import AXES as GRID
from shardlab.theory.degrees import Plan
from tests.model.tiny import CASES

MOST_RANKS = 8
LEAST_PLANS = 40  # that CI runs
LEAST_EACH = 2  # of every pair of axes, every family, and every family on every axis

# Names of tests.model.tiny.CASES. Llama, tied and not, with biases and without, grouped and single KV heads; Mistral
# with a window that the prompt outgrows; Qwen3 with normed queries and keys.
FAMILIES = ("llama-gqa", "llama-gqa-bias", "llama-mha-bias", "llama-mqa", "mistral-window", "qwen3", "qwen3-bias")

# Axis -> whether a model of these sizes (transformers' names) can be split so. Said here again, in other words than
# the code's, so that a plan which is refused without need is found as one that is let through.
AXES: dict[str, Callable[[dict[str, int], Plan], bool]] = {
    "dp": lambda sizes, plan: True,
    "pp": lambda sizes, plan: plan.pp <= sizes["num_hidden_layers"],
    "tp": lambda sizes, plan: plan.tp <= sizes["num_attention_heads"],
}


@dataclass(frozen=True)
class Point:
    """One model under one plan."""

    family: str
    plan: Plan

    @property
    def refused(self) -> tuple[str, ...]:
        """The axes that this model does not allow in this plan; none where the point is legal."""
        return tuple(axis for axis, allows in AXES.items() if not allows(CASES[self.family][1], self.plan))

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes with more than one rank."""
        return tuple(axis for axis in AXES if getattr(self.plan, axis) > 1)

    @property
    def rows(self) -> int:
        """Sequences of the batch: two or more, never a multiple of dp, fewer than dp where dp is large."""
        return {1: 2, 2: 5, 3: 5, 4: 2, 5: 7, 6: 5, 7: 5, 8: 3}[self.plan.dp]

    @property
    def cells(self) -> Iterator[tuple[str, ...]]:
        """What a sample has to hold often enough: the family, its axes, and each pair of axes."""
        yield (self.family,)
        yield from ((self.family, axis) for axis in self.axes)
        yield from combinations(self.axes, 2)

    def __str__(self) -> str:
        return f"{self.family} on {self.plan}"


def every() -> list[Point]:
    """Every family on every plan of up to 8 ranks that the rank grid has, legal or not; smaller worlds first."""
    plans = [plan for degrees in product(range(1, MOST_RANKS + 1), repeat=len(AXES)) if (plan := _plan(degrees))]
    plans.sort(key=lambda plan: plan.world_size)
    return [Point(family, plan) for plan in plans for family in FAMILIES]


def legal() -> list[Point]:
    """Those that are to run."""
    return [point for point in every() if not point.refused]


def sample(seed: int, points: list[Point]) -> list[Point]:
    """At least LEAST_PLANS of the points, and LEAST_EACH of every cell that has so many; in the order of `points`."""
    order = random.Random(seed).sample(points, len(points))
    there = Counter(cell for point in points for cell in point.cells)
    taken: set[Point] = set()
    held: Counter[tuple[str, ...]] = Counter()
    for cell in there:
        for point in order:
            if held[cell] >= min(LEAST_EACH, there[cell]):
                break
            if point not in taken and cell in point.cells:
                taken.add(point)
                held.update(point.cells)
    taken.update([point for point in order if point not in taken][: max(0, LEAST_PLANS - len(taken))])
    return [point for point in points if point in taken]


def _plan(degrees: tuple[int, ...]) -> Plan | None:
    """The plan of these degrees, if it is one (ep has to nest) and small enough."""
    named = dict(zip(AXES, degrees, strict=True))
    size = 1
    for axis in GRID:
        size *= named.get(axis, 1)
    if size > MOST_RANKS:
        return None
    try:
        return Plan(**named)
    except ValueError:
        return None
