"""theory.ledger of every global rank: rows dealt over dp, stages of pp, tokens that travel back, counted by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab.theory import ledger
from shardlab.theory.degrees import Plan, coordinates
from shardlab.theory.ledger import Transfer
from shardlab.theory.split import even_split
from shardlab.theory.transformer import Shape
from tests.theory.shapes import shapes

THREE = Shape(3, 8, 12, 4, 2, 2, 1003)  # 3 layers on 2 stages: 2 and 1


def reduce(rows: int, seq: int) -> Transfer:
    return Transfer("all_reduce", "tp", rows * seq * 8 * 4)


def test_rows_that_dp_does_not_divide() -> None:
    """5 sequences on 3 replicas are 2, 2 and 1."""
    plan = Plan(dp=3, tp=2)
    for rank, rows in enumerate((2, 2, 2, 2, 1, 1)):
        listed = ledger.of_rank(THREE, plan, rank, batch=5, seq=7)
        assert listed == [reduce(rows, 7)] * 7 + [Transfer("all_gather", "tp", rows * 7 * 1004 * 4)]


def test_a_replica_without_rows_sends_nothing() -> None:
    plan = Plan(dp=3, pp=2)
    sizes = {"batch": 2, "prompt": 7, "new_tokens": 4}
    lists = [ledger.generation(THREE, plan, rank, **sizes) for rank in range(6)]
    assert lists[4] == lists[5] == ledger.of_rank(THREE, plan, 4, batch=2, seq=7) == []
    assert lists[0] == lists[2] != []


def test_a_generation_on_two_stages_of_two() -> None:
    """Rank 0 of stage 0 sends hidden states on; every rank hears the tokens; stage 1 gathers one position's logits."""
    plan, rows, prompt = Plan(dp=2, pp=2, tp=2), 3, 7
    chosen = Transfer("broadcast", "pp", rows * 8)
    sizes = {"batch": 6, "prompt": prompt, "new_tokens": 3}
    first, last = [], []
    for seq in (prompt, 1, 1):
        first += [reduce(rows, seq)] * (1 + 2 * 2) + [Transfer("send", "pp", rows * seq * 8 * 4), chosen]
        last += [reduce(rows, seq)] * 2 + [Transfer("all_gather", "tp", rows * 1004 * 4), chosen]
    lists = [ledger.generation(THREE, plan, rank, **sizes) for rank in range(8)]
    assert lists == [first, first, last, last] * 2


def test_a_middle_stage_only_passes_on() -> None:
    middle = ledger.generation(THREE, Plan(pp=3), 1, batch=2, prompt=5, new_tokens=2)
    chosen = Transfer("broadcast", "pp", 2 * 8)
    assert middle == [Transfer("send", "pp", 2 * 5 * 8 * 4), chosen, Transfer("send", "pp", 2 * 8 * 4), chosen]
    # to the stage after it, and from the last one, which here is the same
    assert [one.route and one.route.peer for one in middle] == [2, 2, 2, 2]
    first = ledger.generation(THREE, Plan(pp=3), 0, batch=2, prompt=5, new_tokens=1)
    assert [one.route and one.route.peer for one in first] == [1, 2]


def test_hidden_states_follow_the_dtype_and_tokens_do_not() -> None:
    wide = ledger.generation(THREE, Plan(pp=2), 0, batch=2, prompt=5, new_tokens=1, dtype_bytes=4)
    half = ledger.generation(THREE, Plan(pp=2), 0, batch=2, prompt=5, new_tokens=1, dtype_bytes=2)
    assert [one.num_bytes for one in wide] == [2 * 5 * 8 * 4, 16]
    assert [one.num_bytes for one in half] == [2 * 5 * 8 * 2, 16]


@settings(max_examples=100, derandomize=True, deadline=None)
@given(shapes, st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 7), st.integers(2, 6))
def test_every_rank_has_the_list_of_its_place(shape: Shape, dp: int, pp: int, tp: int, batch: int, seq: int) -> None:
    plan = Plan(dp=dp, pp=min(pp, shape.num_layers), tp=min(tp, shape.num_heads, shape.d_ff, shape.vocab_size))
    for rank in range(plan.world_size):
        place = coordinates(rank, plan)
        rows = len(even_split(batch, dp)[place["dp"]])
        where = {"stage": place["pp"], "tp_rank": place["tp"]}
        own = ledger.forward(shape, plan, batch=rows, seq=seq, **where) if rows else []
        assert ledger.of_rank(shape, plan, rank, batch=batch, seq=seq) == own
        spoken = ledger.generation(shape, plan, rank, batch=batch, prompt=seq, new_tokens=3)
        assert sum(one.op == "broadcast" for one in spoken) == (3 if rows and plan.pp > 1 else 0)


@pytest.mark.parametrize(
    ("plan", "rank", "more", "said"),
    [
        (Plan(dp=2, tp=2), 4, {}, r"rank=4 is outside the plan's 4 ranks \(0\.\.3\)"),
        (Plan(dp=8), 7, {"batch": 0}, "batch=0"),
        (Plan(dp=8), 7, {"new_tokens": 0}, "new_tokens=0"),
        (Plan(dp=2, tp=5), 9, {"batch": 1}, r"tp=5 .*num_heads=4.*degrees that work: 1\.\.4"),
        (Plan(dp=2, pp=4), 7, {"batch": 1}, r"pp=4 .*num_layers=3.*degrees that work: 1\.\.3"),
    ],
)
def test_a_replica_without_rows_hides_no_mistake(plan: Plan, rank: int, more: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ledger.generation(THREE, plan, rank, **{"batch": 2, "prompt": 5, "new_tokens": 2, **more})
