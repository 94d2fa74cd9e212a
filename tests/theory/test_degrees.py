"""theory.plan: a plan is positive degrees, and ep divides the ranks of a stage."""

from __future__ import annotations

import pytest

from shardlab.theory.degrees import Plan


def test_world_size_leaves_ep_out() -> None:
    plan = Plan(dp=2, pp=3, cp=1, tp=4, ep=8)
    assert plan.world_size == 24
    assert plan.sizes == {"dp": 2, "pp": 3, "cp": 1, "tp": 4}
    assert list(plan.sizes) == ["dp", "pp", "cp", "tp"]


@pytest.mark.parametrize("axis", ["dp", "pp", "cp", "tp", "ep"])
@pytest.mark.parametrize("degree", [0, -2, 1.5, True, "2"])
def test_a_degree_that_is_no_positive_integer_is_named(axis: str, degree: object) -> None:
    with pytest.raises(ValueError, match=f"{axis}={degree!r}"):
        Plan(**{axis: degree})  # type: ignore[arg-type]


def test_ep_that_does_not_divide_names_those_that_do() -> None:
    with pytest.raises(ValueError, match="ep=3 .*= 4; degrees that work: 1, 2, 4"):
        Plan(tp=4, ep=3)
    with pytest.raises(ValueError, match="ep=4"):
        Plan(pp=4, ep=4)  # experts are placed within a stage


def test_plans_are_values() -> None:
    assert Plan(tp=2) == Plan(1, 1, 1, 2)
    assert len({Plan(tp=2), Plan(tp=2), Plan(tp=3)}) == 2
