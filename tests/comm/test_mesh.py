"""The mesh as one rank sees it. Which ranks are on which axis is in tests/theory/test_degrees.py."""

from __future__ import annotations

import pytest
import torch

from shardlab import Plan, Ranks, comm
from shardlab.comm.mesh import Mesh
from shardlab.theory.degrees import ALL_AXES, axis_ranks


def test_one_rank_needs_no_process_group() -> None:
    mesh = Mesh.single()
    assert (mesh.rank, mesh.world_size, mesh["tp"].size, mesh["tp"].group) == (0, 1, 1, None)
    with pytest.raises(KeyError, match="no axis 'mp' in the mesh; it has dp, pp, cp, tp, ep"):
        mesh["mp"]


def sum_of_ranks(mesh: Mesh) -> dict[str, tuple[int, int, float]]:
    """Axis -> (place on it, its size, the sum of its global ranks as an all_reduce finds it)."""
    mine = torch.tensor([float(mesh.rank)])
    return {
        name: (mesh[name].rank, mesh[name].size, comm.all_reduce(mine.clone(), mesh[name]).item()) for name in ALL_AXES
    }


@pytest.mark.parametrize("plan", [Plan(dp=2, tp=2, ep=4), Plan(dp=2, pp=2, ep=2), Plan(tp=4, ep=2), Plan(cp=3, ep=3)])
def test_every_axis_of_a_plan_communicates_ep_included(ranks: Ranks, plan: Plan) -> None:
    for rank, seen in enumerate(ranks.run(sum_of_ranks, plan=plan)):
        for name in ALL_AXES:
            line = axis_ranks(rank, plan, name)
            assert seen[name] == (line.index(rank), len(line), sum(line)), (rank, name)
    assert {transfer.axis for transfer in ranks.transfers[0]} == {n for n in ALL_AXES if getattr(plan, n) > 1}
