"""Sampling under any plan: a row draws the same tokens alone, in a batch, on stages, on tp ranks and in any replica."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shardlab import Plan, Ranks, Transformer
from shardlab.comm.mesh import Mesh
from shardlab.model import Sampling
from shardlab.theory.degrees import coordinates
from shardlab.theory.split import even_split
from tests.model.tiny import Reference

HOW = Sampling(temperature=0.9, top_k=50, seed=3)
ROWS = 5


def sampled(mesh: Mesh, folder: Path, token_ids: torch.Tensor) -> torch.Tensor:
    return Transformer.from_pretrained(folder, mesh=mesh).generate(token_ids, 6, eos_ids=(), sampling=HOW)


@pytest.mark.parametrize("plan", [Plan(tp=2), Plan(pp=2), Plan(dp=3), Plan(dp=2, pp=2), Plan(dp=2, tp=2)], ids=str)
def test_what_a_row_draws_depends_on_no_plan(
    plan: Plan, pool: Callable[[int], Ranks], reference: Callable[[str], Reference]
) -> None:
    wanted = reference("llama-gqa")
    token_ids = wanted.token_ids[:ROWS]
    alone = sampled(Mesh.single(), wanted.folder, token_ids)
    assert not torch.equal(alone, Transformer.from_pretrained(wanted.folder).generate(token_ids, 6, eos_ids=()))
    for rank, drawn in enumerate(pool(plan.world_size).run(sampled, wanted.folder, token_ids, plan=plan)):
        rows = even_split(ROWS, plan.dp)[coordinates(rank, plan)["dp"]]
        assert torch.equal(drawn, alone[rows.start : rows.stop]), f"rank {rank}"
