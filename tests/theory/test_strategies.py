"""theory.strategies: the cost table against the ledger's lists, and the point where one more rank stops paying."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shardlab.theory import decode, ledger, strategies
from shardlab.theory.collectives import time_s
from shardlab.theory.degrees import Plan
from shardlab.theory.hardware import Link, accelerator, link
from shardlab.theory.ledger import Transfer
from shardlab.theory.transformer import MODELS, Experts, Shape

LLAMA, MIXTRAL = MODELS["llama-3-70b"], MODELS["mixtral-8x7b"]
SMALL = Shape(3, 16, 32, 8, 4, 2, 40, moe=Experts(16, 3, 8, num_dense_layers=1))
H100 = accelerator("h100_sxm")
NVLINK = link("nvlink4")
BATCH, SEQ, ELEMENT = 3, 16, 2


def listed(shape: Shape, plan: Plan, op: str, axis: str, stage: int = 0) -> list[Transfer]:
    every = ledger.forward(shape, plan, batch=BATCH, seq=SEQ, dtype_bytes=ELEMENT, stage=stage)
    return [one for one in every if (one.op, one.axis) == (op, axis)]


def same(row: strategies.Row, transfers: list[Transfer], degree: int) -> None:
    """The row's ops and bytes are those of the list."""
    assert row.num_ops == len(transfers)
    assert row.num_ops * row.op_bytes == sum(one.num_bytes for one in transfers)
    assert row.forward_bytes == pytest.approx(ledger.sent_bytes(transfers, world_size=degree))


@pytest.mark.parametrize("shape", [LLAMA, SMALL], ids=["llama", "small"])
@pytest.mark.parametrize("degree", [2, 4, 8])
def test_every_row_is_what_the_ledger_lists(shape: Shape, degree: int) -> None:
    sizes = {"tokens": BATCH * SEQ, "element_bytes": ELEMENT}
    tp = listed(shape, Plan(tp=degree), "all_reduce", "tp")[1:]  # the embedding's is no layer's
    same(strategies.tensor_parallel(shape, degree, **sizes), tp, degree)
    layer = ledger.sequence_parallel(shape, Plan(tp=degree), batch=BATCH, seq=SEQ, dtype_bytes=ELEMENT)
    same(strategies.sequence_parallel(shape, degree, **sizes), layer * shape.num_layers, degree)
    stages = min(degree, shape.num_layers)
    pp = listed(shape, Plan(pp=stages), "send", "pp")
    same(strategies.pipeline(shape, stages, **sizes), pp, stages)
    ring = listed(shape, Plan(cp=degree), "send", "cp")
    same(strategies.ring(shape, degree, **sizes), ring, degree)
    layer = ledger.ulysses(shape, Plan(cp=degree), batch=BATCH, seq=SEQ, dtype_bytes=ELEMENT)
    same(strategies.ulysses(shape, degree, **sizes), layer * shape.num_layers, degree)


@pytest.mark.parametrize("degree", [2, 4, 8])
def test_the_expert_row_is_what_the_ledger_lists(degree: int) -> None:
    for shape in (SMALL, MIXTRAL):
        row = strategies.expert_parallel(shape, degree, tokens=BATCH * SEQ, element_bytes=ELEMENT)
        same(row, listed(shape, Plan(dp=degree, ep=degree), "all_to_all", "ep"), degree)
    with pytest.raises(ValueError, match="llama-3-70b has no experts"):
        strategies.expert_parallel(LLAMA, degree, tokens=1)


def test_a_pipeline_has_a_boundary_less_than_stages() -> None:
    for stages in (1, 2, 3):
        lists = [ledger.of_rank(SMALL, Plan(pp=stages), rank, batch=1, seq=1) for rank in range(stages)]
        assert strategies.boundaries(stages) == sum(len(one) for one in lists)
        assert strategies.pipeline(SMALL, stages, tokens=1).num_ops == max(len(one) for one in lists)


def test_the_table_of_llama_on_eight_for_one_token() -> None:
    rows = {row.strategy: row for row in strategies.table(LLAMA, 8, tokens=1)}
    assert list(rows) == ["TP", "SP", "PP", "CP ring", "CP Ulysses", "DP"]
    assert (rows["TP"].num_ops, rows["TP"].sent_bytes) == (160, 28_672)
    assert rows["TP"].forward_bytes == rows["SP"].forward_bytes == 4_587_520
    assert rows["TP"].forward_bytes / rows["PP"].forward_bytes == 280
    assert rows["DP"].forward_bytes == 0
    assert [row.strategy for row in strategies.table(MIXTRAL, 8, tokens=1)][3] == "EP"
    assert "CP Ulysses" not in {row.strategy for row in strategies.table(MODELS["deepseek-v3"], 8, tokens=1)}


def test_one_rank_sends_nothing() -> None:
    for shape in (LLAMA, SMALL):
        assert {row.forward_bytes for row in strategies.table(shape, 1, tokens=5)} == {0}


@pytest.mark.parametrize("degree", [1, 2, 5, 8, 40])
def test_slopes_are_the_derivatives_of_the_step(degree: int) -> None:
    small = 1e-4

    size = 4 * LLAMA.d_model * 2

    def comms(ranks: float) -> float:
        one = 2 * (ranks - 1) * NVLINK.alpha_s + 2 * (ranks - 1) / ranks * size / NVLINK.bandwidth_Bps
        return (2 * LLAMA.num_layers + 1) * one

    def memory(ranks: float) -> float:
        return strategies.decode_bytes(LLAMA, batch=4, past=1000) / ranks / H100.hbm_Bps

    found = strategies.slopes(LLAMA, degree, H100, NVLINK, batch=4, past=1000)
    assert found.memory_s == pytest.approx((memory(degree + small) - memory(degree - small)) / (2 * small), rel=1e-4)
    assert found.comms_s == pytest.approx((comms(degree + small) - comms(degree - small)) / (2 * small), rel=1e-4)
    ring_s = time_s("all_reduce", num_bytes=size, world_size=degree, link=NVLINK)
    assert comms(degree) == pytest.approx((2 * LLAMA.num_layers + 1) * ring_s)  # the same ring, at whole numbers


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("alpha_s", [0.6e-6, 5e-6, 40e-6])
@pytest.mark.parametrize("name", ["llama-3-8b", "llama-3-70b"])
def test_the_whole_optimum_is_beside_the_real_one(name: str, alpha_s: float, batch: int) -> None:
    shape, wire = MODELS[name], Link(alpha_s, 450e9)
    best = strategies.best_degree(shape, H100, wire, batch=batch, past=2048)
    whole = strategies.best_whole_degree(shape, H100, wire, most=200, batch=batch, past=2048)
    assert whole in (int(best), int(best) + 1)
    at = strategies.slopes(shape, best, H100, wire, batch=batch, past=2048)
    assert at.memory_s + at.comms_s == pytest.approx(0, abs=1e-9 + 1e-6 * at.comms_s) or best == 1
    if whole > 1:
        assert strategies.slopes(shape, 0.9 * best, H100, wire, batch=batch, past=2048).helps
    assert not strategies.slopes(shape, 1.1 * best, H100, wire, batch=batch, past=2048).helps


def test_without_latency_there_is_no_end_and_with_a_slow_wire_no_beginning() -> None:
    assert strategies.best_degree(LLAMA, H100, Link(0.0, 450e9)) == float("inf")
    assert strategies.best_degree(MODELS["smollm2-135m"], H100, Link(1e-6, 1e6)) == 1.0
    assert strategies.best_whole_degree(MODELS["smollm2-135m"], H100, Link(1e-6, 1e6), most=8) == 1


def test_more_sequences_and_less_latency_move_the_optimum_up() -> None:
    def best(**more: int) -> float:
        return strategies.best_degree(LLAMA, H100, NVLINK, **more)

    assert best(batch=8, past=8192) > best(batch=1)
    assert strategies.best_degree(LLAMA, H100, replace(NVLINK, alpha_s=4 * NVLINK.alpha_s)) == pytest.approx(best() / 2)


def test_a_step_with_measured_all_reduces_is_the_decode_models_but_for_heads() -> None:
    ours = strategies.decode_step_s(LLAMA, 8, H100, NVLINK, all_reduce_s=lambda _: 11.8e-6)
    assert ours == pytest.approx(decode.token_s(LLAMA, 8, H100, lambda _: 11.8e-6), rel=0.01)
    assert strategies.decode_step_s(LLAMA, 1, H100, NVLINK) == pytest.approx(
        decode.token_s(LLAMA, 1, H100, lambda _: 1.0)
    )
    with pytest.raises(ValueError, match="degree=0.5"):
        strategies.slopes(LLAMA, 0.5, H100, NVLINK)
    with pytest.raises(ValueError, match="most=0"):
        strategies.best_whole_degree(LLAMA, H100, NVLINK, most=0)
