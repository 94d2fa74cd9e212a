"""Lab 07's messages are those that the ledger predicts for the layer, op by op and to the byte."""

from __future__ import annotations

import pytest

from shardlab import Plan, Ranks
from shardlab.launch import wire
from shardlab.programs import messages
from shardlab.theory import ledger
from shardlab.theory.transformer import Experts, Shape

SHAPE = Shape(2, 24, 40, 12, 12, 2, 50, name="12 heads", moe=Experts(12, 2, 8))
BATCH, SEQ = 2, 36


def predicted(way: str, T: int) -> list[ledger.Transfer]:
    plan, sizes = messages.plan_of(way, T), {"batch": BATCH, "seq": SEQ}
    match way:
        case "TP":
            return ledger.forward(SHAPE, plan, **sizes)[1:3]
        case "SP":
            return ledger.sequence_parallel(SHAPE, plan, **sizes)
        case "PP":
            return ledger.forward(SHAPE, Plan(pp=2), **sizes)
        case "EP":
            both = ledger.expert_exchange(SHAPE, Plan(dp=T, ep=T), tokens=BATCH * SEQ // T)
            return [ledger.Transfer(one.op, "dp", one.num_bytes) for one in both]
        case "ring":
            return ledger.ring_attention(SHAPE, plan, **sizes)
        case "Ulysses":
            return ledger.ulysses(SHAPE, plan, **sizes)
        case _:
            return []


@pytest.mark.parametrize("T", [1, 2, 3, 4])
@pytest.mark.parametrize("way", messages.AXES)
def test_a_layer_sends_what_the_ledger_says(ranks: Ranks, way: str, T: int) -> None:
    recorded = ranks.run(messages.layer, way, SHAPE, BATCH, SEQ, plan=messages.plan_of(way, T))
    wanted = predicted(way, T) if T > 1 else []
    if way == "PP":  # the last stage has nobody to send to
        assert recorded == [wanted] * (T - 1) + [[]]
    else:
        assert recorded == [wanted] * T
    assert way == "DP" or T == 1 or wanted


def test_ulysses_copies_kv_heads_where_there_are_too_few(ranks: Ranks) -> None:
    few = Shape(2, 24, 40, 12, 2, 2, 50)
    recorded = ranks.run(messages.layer, "Ulysses", few, BATCH, SEQ, plan=messages.plan_of("Ulysses", 4))
    assert recorded == [ledger.ulysses(few, Plan(cp=4), batch=BATCH, seq=SEQ)] * 4


@pytest.mark.skipif(not wire.available()[0], reason="the kernel's socket counters cannot be read here")
@pytest.mark.parametrize("way", ["TP", "SP", "PP", "EP", "ring", "Ulysses"])
def test_and_so_does_the_wire(ranks: Ranks, way: str) -> None:
    large = Shape(2, 1536, 40, 12, 4, 128, 50)
    ranks.run(messages.layer, way, large, 1, 960, plan=messages.plan_of(way, 4), wire=True)
    assert ranks.last.differences() == []


def test_an_unknown_way_is_named() -> None:
    with pytest.raises(ValueError, match="way='ZeRO'; allowed: TP"):
        messages.plan_of("ZeRO", 2)
