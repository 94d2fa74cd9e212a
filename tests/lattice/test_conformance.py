"""The conformance lattice: any plan, any family. Tokens are the reference's, comm's record is the ledger's list on
every rank, and the wire carried those bytes.

CI draws a sample by SHARDLAB_LATTICE=<seed> (0 by default); SHARDLAB_LATTICE=all, which `make lattice` sets, runs every
legal point.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from shardlab import Ranks
from shardlab.model.load import read_model_config
from shardlab.theory import ledger
from shardlab.theory.degrees import coordinates
from shardlab.theory.ledger import Transfer
from shardlab.theory.split import even_split
from shardlab.theory.transformer import Shape
from tests.lattice.conftest import NEW_TOKENS, PROMPT
from tests.lattice.points import Point, legal, sample
from tests.lattice.programs import Answer, answer
from tests.model.tiny import Reference

DRAWN = os.environ.get("SHARDLAB_LATTICE", "0")
POINTS = legal() if DRAWN == "all" else sample(int(DRAWN), legal())


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_a_point(
    point: Point,
    pool: Callable[[int], Ranks],
    reference: Callable[[str], Reference],
    record_property: Callable[[str, object], None],
) -> None:
    wanted, ranks = reference(point.family), pool(point.plan.world_size)
    token_ids = wanted.token_ids[: point.rows]
    answers = ranks.run(answer, wanted.folder, token_ids, NEW_TOKENS, plan=point.plan, wire=True)
    assert_answers(point, answers, wanted)
    assert_record(point, ranks.last.transfers, read_model_config(wanted.folder).shape)
    record_property("measured", ranks.last.measured)
    if ranks.last.measured:  # a machine that hides its sockets, or is too busy to let them settle, still has the record
        assert ranks.last.differences() == []


def assert_answers(point: Point, answers: list[Answer], wanted: Reference) -> None:
    """Every rank has its replica's tokens, and the last stage the logits that transformers has."""
    for rank, said in enumerate(answers):
        place = coordinates(rank, point.plan)
        rows = even_split(point.rows, point.plan.dp)[place["dp"]]
        own = slice(rows.start, rows.stop)
        assert torch.equal(said.tokens, wanted.greedy[own]), f"tokens of rank {rank}"
        if rows and place["pp"] == point.plan.pp - 1:
            assert said.logits is not None, f"logits of rank {rank}"
            torch.testing.assert_close(said.logits, wanted.logits[own], atol=1e-5, rtol=1e-4)
        else:
            assert said.logits is None, f"logits of rank {rank}"


def assert_record(point: Point, transfers: list[list[Transfer]], shape: Shape) -> None:
    """comm's record of the forward and the generation is the ledger's list, on every rank, partners included."""
    sizes = {"batch": point.rows, "new_tokens": NEW_TOKENS}
    for rank, recorded in enumerate(transfers):
        forward = ledger.of_rank(shape, point.plan, rank, batch=point.rows, seq=PROMPT)
        spoken = ledger.generation(shape, point.plan, rank, prompt=PROMPT, **sizes)
        assert recorded == forward + spoken, f"record of rank {rank}"
        assert peers(recorded) == peers(forward + spoken), f"partners of rank {rank}"


def peers(transfers: list[Transfer]) -> list[int | None]:
    """The rank of the axis that each one goes to or comes from, where that is one rank."""
    return [one.route.peer if one.route else None for one in transfers]
