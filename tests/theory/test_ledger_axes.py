"""theory.ledger on pp, cp and ep: against an engine that passes every message (tests.theory.messages)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab.theory import ledger, per_rank
from shardlab.theory.collectives import wire_bytes
from shardlab.theory.degrees import Plan
from shardlab.theory.ledger import Transfer
from shardlab.theory.transformer import MODELS, Experts, Shape
from tests.theory import messages
from tests.theory.shapes import shapes_and_plans

DENSE = Shape(4, 8, 16, 4, 2, 2, 12, name="dense")
MOE = replace(DENSE, moe=Experts(8, 2, 16, num_dense_layers=1), name="moe")
SHARED = replace(MOE, moe=Experts(8, 2, 16, num_shared=1))


@pytest.mark.parametrize("shape", [DENSE, MOE, SHARED], ids=["dense", "moe", "shared"])
@pytest.mark.parametrize(("dp", "pp", "cp", "tp"), [*product((1, 2), (1, 2), (1, 2), (1, 2, 4)), (1, 4, 4, 1)])
def test_every_rank_of_an_engine_sends_what_its_list_says(shape: Shape, dp: int, pp: int, cp: int, tp: int) -> None:
    batch, seq, element = 4, 16, 2
    most = dp * cp * tp
    for ep in (1, tp, 2 * tp, 4 * tp) if shape.moe else (1,):
        if most % ep or 8 % ep:
            continue
        plan = Plan(dp, pp, cp, tp, ep)
        wire = messages.run(shape, plan, batch=batch, seq=seq, element=element, positions=1)
        for rank, place in enumerate(product(range(dp), range(pp), range(cp), range(tp))):
            sizes = {"batch": dp * batch, "seq": seq, "dtype_bytes": element, "logit_positions": 1}
            listed = ledger.of_rank(shape, plan, rank, **sizes)
            sent = {axis: wire.sent[axis, place] for axis in ("pp", "cp", "tp", "ep") if wire.sent[axis, place]}
            assert sent_by_axis(listed, plan) == sent, (plan, rank)
            sends = Counter(one.axis for one in listed if one.op == "send")
            assert sends == Counter({a: wire.messages[a, place] for a in ("pp", "cp") if wire.messages[a, place]})


def sent_by_axis(transfers: list[Transfer], plan: Plan) -> dict[str, float]:
    """Axis -> the bytes that leave a rank over it; an axis over which none do is left out."""
    sent: dict[str, float] = {}
    for one in transfers:
        sent[one.axis] = sent.get(one.axis, 0) + ledger.sent_bytes([one], world_size=getattr(plan, one.axis))
    return {axis: size for axis, size in sent.items() if size}


def test_a_pipeline_by_hand() -> None:
    plan, size = Plan(pp=2, tp=2), 3 * 5 * 8 * 4
    lists = [ledger.of_rank(DENSE, plan, rank, batch=3, seq=5) for rank in range(4)]
    reduce = Transfer("all_reduce", "tp", size)
    assert lists[0] == lists[1] == [reduce] * (1 + 2 * 2) + [Transfer("send", "pp", size)]
    assert lists[2] == lists[3] == [reduce] * (2 * 2) + [Transfer("all_gather", "tp", 3 * 5 * 12 * 4)]


@given(shapes_and_plans(), st.integers(1, 3), st.integers(3, 12))
@settings(max_examples=100, deadline=None)
def test_what_holds_for_every_plan(shape_and_plan: tuple[Shape, Plan], batch: int, seq: int) -> None:
    shape, plan = shape_and_plan
    stages = [ledger.forward(shape, plan, batch=batch, seq=seq, stage=stage) for stage in range(plan.pp)]
    ops = Counter((one.op, one.axis) for stage in stages for one in stage)
    assert ops["send", "pp"] == plan.pp - 1
    assert ops["send", "cp"] == shape.num_layers * (plan.cp - 1)
    assert ops["all_to_all", "ep"] == (2 * shape.num_moe_layers if plan.ep > plan.tp else 0)
    assert all(one.num_bytes > 0 and isinstance(one.num_bytes, int) for stage in stages for one in stage)
    assert {one.axis for stage in stages for one in stage} <= {
        axis for axis in ("pp", "cp", "tp", "ep") if getattr(plan, axis) > 1
    }
    if plan.pp > 1:  # a pipeline cuts the list of one stage into pieces, and adds the boundaries
        flat = [one for stage in stages for one in stage if one.axis != "pp"]
        assert flat == ledger.forward(shape, replace(plan, pp=1), batch=batch, seq=seq)


def test_ring_attention_passes_k_and_v_of_a_chunk() -> None:
    llama = MODELS["llama-3-70b"]
    ring = ledger.ring_attention(llama, Plan(cp=4), batch=1, seq=128 * 1024, dtype_bytes=2)
    assert ring == [Transfer("send", "cp", 2 * 32 * 1024 * 8 * 128 * 2)] * 3
    assert ledger.ring_attention(llama, Plan(cp=4), batch=1, seq=5, dtype_bytes=2)[0].num_bytes == 2 * 2 * 8 * 128 * 2
    assert ledger.ring_attention(llama, Plan(), batch=1, seq=9) == []


def test_a_latent_cache_passes_its_one_vector() -> None:
    deepseek = MODELS["deepseek-v3"]
    (send,) = ledger.ring_attention(deepseek, Plan(cp=2, tp=8), batch=1, seq=10, dtype_bytes=2)
    assert send.num_bytes == 5 * (512 + 64) * 2  # whatever tp is: there is no head to split
    with pytest.raises(ValueError, match="latent cache"):
        ledger.ulysses(deepseek, Plan(cp=2), batch=1, seq=10)


def test_uneven_kv_heads_make_the_tp_ranks_differ() -> None:
    nine = Shape(1, 8, 8, 9, 3, 2, 8)  # over 4 ranks: query heads 0-2, 3-4, 5-6, 7-8
    kv = [len(heads) for heads in per_rank.kv_heads(nine, 4)]
    assert kv == [1, 1, 2, 1]
    sizes = [
        ledger.ring_attention(nine, Plan(cp=2, tp=4), batch=1, seq=2, tp_rank=rank)[0].num_bytes for rank in range(4)
    ]
    assert sizes == [count * 2 * 2 * 4 for count in kv]


@pytest.mark.parametrize(("degree", "num_heads", "num_kv_heads"), [(2, 4, 2), (4, 8, 4), (2, 6, 2), (4, 4, 4)])
def test_ulysses_moves_what_changes_owner(degree: int, num_heads: int, num_kv_heads: int) -> None:
    shape, seq = replace(DENSE, num_heads=num_heads, num_kv_heads=num_kv_heads), 2 * degree
    exchanges = ledger.ulysses(shape, Plan(cp=degree), batch=1, seq=seq, dtype_bytes=2)
    assert [one.op for one in exchanges] == ["all_to_all"] * 4
    for one, heads in zip(exchanges, (num_heads, num_kv_heads, num_kv_heads, num_heads), strict=True):
        elements = list(product(range(seq), range(heads), range(shape.head_dim)))
        by_sequence = {element: element[0] * degree // seq for element in elements}
        by_head = {element: element[1] * degree // heads for element in elements}
        left = messages.moved_by_transpose(by_sequence, by_head)
        assert wire_bytes("all_to_all", num_bytes=one.num_bytes, world_size=degree) == 2 * left[0]
        assert len(set(left.values())) == 1
    fused = ledger.ulysses_fused(shape, Plan(cp=degree), batch=1, seq=seq, dtype_bytes=2)
    assert [one.num_bytes for one in fused] == [sum(one.num_bytes for one in exchanges[:3]), exchanges[3].num_bytes]


def test_ulysses_beyond_the_kv_heads_sends_copies() -> None:
    shape = replace(DENSE, num_heads=8, num_kv_heads=2)
    q, k, v, out = ledger.ulysses(shape, Plan(cp=4), batch=1, seq=4, dtype_bytes=2)
    assert (q.num_bytes, out.num_bytes) == (8 * 2 * 2,) * 2
    assert (k.num_bytes, v.num_bytes) == (4 * 2 * 2,) * 2  # one head for each of the four ranks, not two in all
    with pytest.raises(ValueError, match="cp=9 is above the 8 query heads.*1..8"):
        ledger.ulysses(shape, Plan(cp=9), batch=1, seq=9)
    assert ledger.ulysses(shape, Plan(), batch=1, seq=4) == ledger.ulysses_fused(shape, Plan(), batch=1, seq=4) == []


def test_sequence_parallelism_sends_as_much_as_the_all_reduces() -> None:
    for tp in (1, 2, 4):
        split = ledger.sequence_parallel(DENSE, Plan(tp=tp), batch=2, seq=8)
        whole = [Transfer("all_reduce", "tp", 2 * 8 * 8 * 4)] * (2 if tp > 1 else 0)
        assert ledger.sent_bytes(split, world_size=tp) == ledger.sent_bytes(whole, world_size=tp)
        assert len(split) == 2 * len(whole)


def test_decode_over_a_split_cache_merges_instead_of_passing_keys() -> None:
    plan = Plan(cp=2, tp=2)
    sent = ledger.decode_step(DENSE, plan, batch=3, dtype_bytes=2)
    merge = Transfer("all_gather", "cp", 2 * 3 * 2 * (2 * 2 + 4))  # ranks, batch, heads, out and lse
    reduce = Transfer("all_reduce", "tp", 3 * 8 * 2)
    assert sent == [reduce, *[merge, reduce, reduce] * 4, Transfer("all_gather", "tp", 3 * 12 * 2)]
    assert ledger.decode_step(DENSE, Plan(tp=2), batch=3) == ledger.forward(DENSE, Plan(tp=2), batch=3, seq=1)
    with pytest.raises(ValueError, match=r"seq=1 cannot be split over cp=2.*ledger\.decode_step"):
        ledger.forward(DENSE, plan, batch=3, seq=1)


def test_experts_inside_a_tp_axis_need_no_dispatch() -> None:
    inside = ledger.forward(MOE, Plan(tp=4, ep=2), batch=1, seq=4)
    assert inside == ledger.forward(MOE, Plan(tp=4), batch=1, seq=4)
    across = ledger.forward(MOE, Plan(dp=2, tp=2, ep=4), batch=1, seq=4)
    assert Counter(one.axis for one in across)["ep"] == 2 * 3  # three of four layers have experts


def test_copies_are_of_a_ranks_own_tokens_rounded_up() -> None:
    copies, combined, gather = ledger.expert_exchange(MOE, Plan(dp=2, tp=2, ep=4), tokens=5, dtype_bytes=2)
    assert copies == combined == Transfer("all_to_all", "ep", 3 * 2 * 8 * 2)
    assert gather == Transfer("all_gather", "tp", 2 * 3 * 8 * 2)
    assert ledger.sent_bytes([copies], world_size=4) == 3 / 4 * 3 * 2 * 8 * 2
