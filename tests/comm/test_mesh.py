"""The rank grid: pure arithmetic, no processes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab.comm.mesh import AXES, Mesh, axis_ranks, coordinates
from shardlab.theory.degrees import Plan

sizes = st.integers(1, 4)
plans = st.builds(lambda dp, pp, cp, tp: Plan(dp=dp, pp=pp, cp=cp, tp=tp), sizes, sizes, sizes, sizes)


def test_tp_is_fastest_and_dp_slowest() -> None:
    plan = Plan(dp=2, pp=2, tp=3)
    assert coordinates(0, plan) == {"dp": 0, "pp": 0, "cp": 0, "tp": 0}
    assert coordinates(1, plan)["tp"] == 1
    assert coordinates(3, plan) == {"dp": 0, "pp": 1, "cp": 0, "tp": 0}
    assert coordinates(11, plan) == {"dp": 1, "pp": 1, "cp": 0, "tp": 2}
    assert axis_ranks(4, plan, "tp") == (3, 4, 5)
    assert axis_ranks(4, plan, "pp") == (1, 4)
    assert axis_ranks(4, plan, "dp") == (4, 10)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(plans, st.sampled_from(AXES))
def test_the_lines_of_an_axis_divide_the_ranks(plan: Plan, name: str) -> None:
    lines = {axis_ranks(rank, plan, name) for rank in range(plan.world_size)}
    assert sorted(rank for line in lines for rank in line) == list(range(plan.world_size))
    for rank in range(plan.world_size):
        assert axis_ranks(rank, plan, name)[coordinates(rank, plan)[name]] == rank


def test_a_rank_outside_the_plan_is_named() -> None:
    with pytest.raises(ValueError, match=r"rank=4 is outside the plan's 4 ranks \(0\.\.3\)"):
        coordinates(4, Plan(tp=4))


def test_one_rank_needs_no_process_group() -> None:
    mesh = Mesh.single()
    assert (mesh.rank, mesh.world_size, mesh["tp"].size, mesh["tp"].group) == (0, 1, 1, None)
    with pytest.raises(KeyError, match="no axis 'mp' in the mesh; it has dp, pp, cp, tp"):
        mesh["mp"]
