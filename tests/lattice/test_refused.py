"""Legal is exactly what nothing refuses: a plan that cannot work is a ValueError before any collective."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from shardlab import Plan, Ranks, Transformer
from shardlab.comm.mesh import Axis, Mesh
from shardlab.comm.recorder import Recorder
from shardlab.launch.errors import RankError
from shardlab.model.load import read_model_config
from shardlab.theory import ledger
from shardlab.theory.degrees import ALL_AXES, axis_ranks
from tests.lattice.points import FAMILIES, every
from tests.lattice.programs import answer
from tests.model.tiny import CASES, Reference

LIMITS = {"tp": "num_heads", "pp": "num_layers"}  # the name, in the message, of what an axis divides
SIZES = {"num_heads": "num_attention_heads", "num_layers": "num_hidden_layers"}  # and in transformers' config


class NoCollective(Recorder):
    """A recorder on which nothing may happen."""

    @contextmanager
    def collective(self, op: str, *_: object, **__: object) -> Iterator[None]:
        raise AssertionError(f"{op} before the plan was refused")
        yield


def mesh_of(plan: Plan, rank: int) -> Mesh:
    """One rank's mesh with no process group: enough to build a model, not to send anything."""
    axes, recorder = {}, NoCollective()
    for name in ALL_AXES:
        ranks = axis_ranks(rank, plan, name)
        axes[name] = Axis(name, ranks.index(rank), len(ranks), ranks, None, recorder)
    return Mesh(plan, rank, axes, torch.device("cpu"), recorder)


def refusal(build: Callable[[], object]) -> str | None:
    """What the ValueError says, or None where nothing is refused."""
    try:
        build()
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_is_refused_exactly_where_the_lattice_leaves_it_out(
    family: str, reference: Callable[[str], Reference]
) -> None:
    config, sizes = read_model_config(reference(family).folder), CASES[family][1]
    for point in (point for point in every() if point.family == family):
        plan = point.plan
        for rank in (0, plan.world_size - 1):
            of_model = refusal(partial(Transformer, config, mesh_of(plan, rank), device="meta"))
            of_ledger = refusal(partial(ledger.of_rank, config.shape, plan, rank, batch=1, seq=1))
            for said in (of_model, of_ledger):
                if not point.refused:
                    assert said is None, point
                    continue
                assert said is not None, point
                axis = next(axis for axis in point.refused if f"{axis}={getattr(plan, axis)}" in said)
                most = sizes[SIZES[LIMITS[axis]]]
                assert f"{LIMITS[axis]}={most}" in said
                assert f"degrees that work: 1..{most}" in said


def test_real_ranks_refuse_before_they_send(
    pool: Callable[[int], Ranks], reference: Callable[[str], Reference]
) -> None:
    wanted = reference("qwen3-bias")
    with pytest.raises(RankError, match=r"ValueError.*tp=5 .*num_heads=4.*degrees that work: 1\.\.4"):
        pool(5).run(answer, wanted.folder, wanted.token_ids, 1, plan=Plan(tp=5))
    with pytest.raises(RankError, match=r"ValueError.*pp=5 .*num_layers=3.*degrees that work: 1\.\.3"):
        pool(5).run(answer, wanted.folder, wanted.token_ids, 1, plan=Plan(pp=5))
