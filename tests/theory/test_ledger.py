"""theory.ledger: the list of transfers of a tensor-parallel forward, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardlab.theory.degrees import Plan
from shardlab.theory.ledger import Transfer, forward, sent_bytes
from shardlab.theory.split import largest_tp
from shardlab.theory.transformer import MODELS, Shape
from tests.theory.shapes import shapes

TINY = Shape(2, 8, 12, 4, 2, 2, 1003)


def test_two_layers_by_hand() -> None:
    hidden = Transfer("all_reduce", "tp", 2 * 5 * 8 * 4)
    logits = Transfer("all_gather", "tp", 2 * 5 * 1004 * 4)  # 1003 rows on 4 ranks: 251 each, one padded
    assert forward(TINY, Plan(tp=4), batch=2, seq=5) == [hidden] * 5 + [logits]


def test_only_the_last_logits_travel_when_generating() -> None:
    every = forward(TINY, Plan(tp=2), batch=3, seq=5)
    last = forward(TINY, Plan(tp=2), batch=3, seq=5, logit_positions=1)
    assert every[:-1] == last[:-1]
    assert every[-1].num_bytes == 5 * last[-1].num_bytes


@given(
    shape=shapes,
    batch=st.integers(1, 4),
    seq=st.integers(1, 9),
    dtype_bytes=st.sampled_from([2, 4]),
    data=st.data(),
)
def test_bytes_scale_with_tokens_and_not_with_ranks(
    shape: Shape, batch: int, seq: int, dtype_bytes: int, data: st.DataObject
) -> None:
    tp = data.draw(st.integers(1, largest_tp(shape)))
    transfers = forward(shape, Plan(tp=tp), batch=batch, seq=seq, dtype_bytes=dtype_bytes)
    if tp == 1:
        assert transfers == []
        return
    assert [one.op for one in transfers] == ["all_reduce"] * (2 * shape.num_layers + 1) + ["all_gather"]
    assert {one.num_bytes for one in transfers[:-1]} == {batch * seq * shape.d_model * dtype_bytes}
    padding = transfers[-1].num_bytes - batch * seq * shape.vocab_size * dtype_bytes
    assert 0 <= padding < batch * seq * tp * dtype_bytes
    assert {one.axis for one in transfers} == {"tp"}


def test_replicas_and_single_ranks_send_nothing() -> None:
    assert forward(TINY, Plan(dp=4), batch=1, seq=1) == []
    assert forward(TINY, Plan(dp=2, tp=2), batch=1, seq=1) == forward(TINY, Plan(tp=2), batch=1, seq=1)


def test_seconds_take_no_part_in_comparison() -> None:
    assert Transfer("send", "pp", 4, seconds=1.0) == Transfer("send", "pp", 4)
    assert Transfer("send", "pp", 4) != Transfer("send", "pp", 5)


@pytest.mark.parametrize(
    ("plan", "more", "said"),
    [
        (Plan(tp=5), {}, "tp=5"),
        (Plan(pp=3), {}, "pp=3 .*num_layers=2.*degrees that work: 1..2"),
        (Plan(cp=6), {}, "seq=5 cannot be split over cp=6"),
        (Plan(tp=2, ep=2), {}, "ep=2.*has no experts"),
        (Plan(pp=2), {"stage": 2}, "stage=2 is not a stage of pp=2; allowed: 0..1"),
        (Plan(tp=2), {"batch": 0}, "batch=0"),
        (Plan(tp=2), {"seq": 0}, "seq=0"),
        (Plan(tp=2), {"logit_positions": 0}, "logit_positions=0"),
        (Plan(tp=2), {"logit_positions": 6}, "logit_positions=6"),
    ],
)
def test_what_cannot_be_predicted_is_named(plan: Plan, more: dict[str, int], said: str) -> None:
    sizes = {"batch": 1, "seq": 5, **more}
    with pytest.raises(ValueError, match=said):
        forward(TINY, plan, **sizes)


def test_tied_embeddings_send_the_same() -> None:
    smollm = MODELS["smollm2-135m"]
    untied = replace(smollm, tied_embeddings=False)
    assert forward(smollm, Plan(tp=3), batch=1, seq=7) == forward(untied, Plan(tp=3), batch=1, seq=7)


def test_sent_bytes_add_up_over_ops() -> None:
    transfers = forward(TINY, Plan(tp=4), batch=2, seq=5)
    all_reduces = 5 * 2 * 3 / 4 * (2 * 5 * 8 * 4)
    assert sent_bytes(transfers, world_size=4) == all_reduces + 3 / 4 * (2 * 5 * 1004 * 4)
    assert sent_bytes([], world_size=4) == 0
