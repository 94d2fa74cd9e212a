"""The lattice itself, without a rank: what is in it, what a sample holds, and that neither ever shrinks."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from tests.lattice.points import AXES, FAMILIES, LEAST_EACH, LEAST_PLANS, MOST_RANKS, every, legal, sample

# Legal points by family, by axis and by pair of axes. An issue that adds an axis or a family adds lines and raises
# numbers; none is ever lowered.
FLOOR = {
    ("llama-gqa",): 31,
    ("llama-gqa-bias",): 31,
    ("llama-mha-bias",): 29,
    ("llama-mqa",): 29,
    ("mistral-window",): 29,
    ("qwen3",): 29,
    ("qwen3-bias",): 27,
    ("dp",): 119,
    ("pp",): 77,
    ("tp",): 107,
    ("dp", "pp"): 35,
    ("dp", "tp"): 42,
    ("pp", "tp"): 35,
}


def counts() -> Counter[tuple[str, ...]]:
    held: Counter[tuple[str, ...]] = Counter()
    for point in legal():
        held.update([(point.family,), *((axis,) for axis in point.axes), *combinations(point.axes, 2)])
    return held


def test_the_lattice_never_shrinks() -> None:
    held = counts()
    assert {cell: held[cell] for cell, least in FLOOR.items() if held[cell] < least} == {}


def test_every_axis_pair_and_family_has_a_floor() -> None:
    cells = {*((family,) for family in FAMILIES), *((axis,) for axis in AXES), *combinations(AXES, 2)}
    assert set(FLOOR) == cells


@pytest.mark.parametrize("seed", range(20))
def test_a_sample_holds_every_pair_of_axes_and_every_family_twice(seed: int) -> None:
    points = legal()
    drawn = sample(seed, points)
    assert len(drawn) == len(set(drawn)) >= LEAST_PLANS
    there = Counter(cell for point in points for cell in point.cells)
    held = Counter(cell for point in drawn for cell in point.cells)
    assert {cell: held[cell] for cell in there if held[cell] < min(LEAST_EACH, there[cell])} == {}
    assert all(held[family,] >= 2 for family in FAMILIES)
    assert all(held[pair] >= 2 for pair in combinations(AXES, 2))
    assert sample(seed, points) == drawn


def test_a_small_lattice_is_run_whole() -> None:
    few = legal()[:3]
    assert sample(0, few) == few


def test_the_plans_are_those_of_up_to_eight_ranks() -> None:
    plans = {point.plan for point in every()}
    assert {plan.world_size for plan in plans} == set(range(1, MOST_RANKS + 1))
    assert len(every()) == len(plans) * len(FAMILIES) > len(legal())


def test_batches_are_two_or_more_and_dp_never_divides_them() -> None:
    for point in legal():
        assert point.rows >= 2
        assert point.plan.dp == 1 or point.rows % point.plan.dp
    if "dp" in AXES:  # some replica gets no row at all
        assert any(point.rows < point.plan.dp for point in legal())
