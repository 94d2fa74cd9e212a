"""theory.degrees: a plan is positive degrees, and the rank grid follows from it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab.theory.degrees import ALL_AXES, AXES, Plan, axis_ranks, coordinates, groups


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Up to 4 ranks on each axis, and any ep that its stage allows."""
    dp, pp, cp, tp = (draw(st.integers(1, 4)) for _ in AXES)
    ranks = dp * cp * tp
    ep = draw(st.sampled_from([d for d in range(1, ranks + 1) if ranks % d == 0 and (tp % d == 0 or d % tp == 0)]))
    return Plan(dp=dp, pp=pp, cp=cp, tp=tp, ep=ep)


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


def test_ep_that_does_not_fit_names_those_that_do() -> None:
    with pytest.raises(ValueError, match="ep=3 does not divide dp .*= 4; degrees that work: 1, 2, 4"):
        Plan(tp=4, ep=3)
    with pytest.raises(ValueError, match="ep=4"):
        Plan(pp=4, ep=4)  # experts are placed within a stage
    with pytest.raises(ValueError, match="ep=2 neither divides tp=3 nor is a multiple of it; .* 1, 3, 6"):
        Plan(dp=2, tp=3, ep=2)


def test_plans_are_values() -> None:
    assert Plan(tp=2) == Plan(1, 1, 1, 2)
    assert len({Plan(tp=2), Plan(tp=2), Plan(tp=3)}) == 2
    assert (str(Plan(dp=2, tp=4, ep=8)), str(Plan())) == ("dp2 tp4 ep8", "1 rank")


def test_tp_is_fastest_and_dp_slowest() -> None:
    plan = Plan(dp=2, pp=2, tp=3)
    assert coordinates(0, plan) == {"dp": 0, "pp": 0, "cp": 0, "tp": 0, "ep": 0}
    assert coordinates(1, plan)["tp"] == 1
    assert coordinates(3, plan) == {"dp": 0, "pp": 1, "cp": 0, "tp": 0, "ep": 0}
    assert coordinates(11, plan) == {"dp": 1, "pp": 1, "cp": 0, "tp": 2, "ep": 0}
    assert axis_ranks(4, plan, "tp") == (3, 4, 5)
    assert axis_ranks(4, plan, "pp") == (1, 4)
    assert axis_ranks(4, plan, "dp") == (4, 10)


def test_ep_groups_are_neighbours_of_one_stage() -> None:
    # Two replicas of two stages of two tp ranks. Stage 0 is ranks 0, 1 and 4, 5; stage 1 is 2, 3 and 6, 7.
    assert groups(Plan(dp=2, pp=2, tp=2, ep=4), "ep") == ((0, 1, 4, 5), (2, 3, 6, 7))
    assert groups(Plan(dp=2, pp=2, tp=2, ep=2), "ep") == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert groups(Plan(tp=4, ep=2), "ep") == ((0, 1), (2, 3))
    assert coordinates(6, Plan(dp=2, pp=2, tp=2, ep=4))["ep"] == 2


@settings(max_examples=200, derandomize=True, deadline=None)
@given(plans(), st.sampled_from(ALL_AXES))
def test_the_lines_of_an_axis_divide_the_ranks(plan: Plan, axis: str) -> None:
    lines = groups(plan, axis)
    assert sorted(rank for line in lines for rank in line) == list(range(plan.world_size))
    assert {len(line) for line in lines} == {getattr(plan, axis)}
    for rank in range(plan.world_size):
        assert axis_ranks(rank, plan, axis)[coordinates(rank, plan)[axis]] == rank
        assert axis_ranks(rank, plan, axis) in lines


@settings(max_examples=200, derandomize=True, deadline=None)
@given(plans())
def test_an_ep_group_stays_in_its_stage_and_keeps_tp_ranks_together(plan: Plan) -> None:
    for line in groups(plan, "ep"):
        places = [coordinates(rank, plan) for rank in line]
        assert len({place["pp"] for place in places}) == 1
        # whole tp lines, or a part of one
        assert len({(place["dp"], place["cp"]) for place in places}) == max(1, plan.ep // plan.tp)


def test_what_is_not_in_the_grid_is_named() -> None:
    with pytest.raises(ValueError, match=r"rank=4 is outside the plan's 4 ranks \(0\.\.3\)"):
        coordinates(4, Plan(tp=4))
    with pytest.raises(ValueError, match=r"rank=-1 is outside"):
        axis_ranks(-1, Plan(tp=4), "tp")
    with pytest.raises(ValueError, match="axis='mp' is not an axis of the grid; they are dp, pp, cp, tp, ep"):
        groups(Plan(), "mp")
