"""Claims on the cost table (7.7) that the ledger decides."""

from __future__ import annotations

from itertools import product

import pytest

from shardlab.theory import ledger, per_rank, strategies
from shardlab.theory.degrees import Plan
from shardlab.theory.hardware import accelerator, link
from shardlab.theory.ledger import Transfer
from shardlab.theory.transformer import MODELS, Shape
from tests.theory import messages

LLAMA, MIXTRAL = MODELS["llama-3-70b"], MODELS["mixtral-8x7b"]
H100, NDR = accelerator("h100_sxm"), link("ib_ndr")


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
def test_a2_a_transfer_at_each_boundary_not_each_layer(stages: int) -> None:
    plan, boundary = Plan(pp=stages), Transfer("send", "pp", 16_384)
    lists = [ledger.of_rank(LLAMA, plan, rank, batch=1, seq=1, dtype_bytes=2) for rank in range(stages)]
    assert lists == [[boundary]] * (stages - 1) + [[]]
    small = Shape(8, 8, 16, 4, 2, 2, 12)
    wire = messages.run(small, Plan(pp=stages), batch=1, seq=4, element=2, positions=1)
    assert sum(wire.messages.values()) == stages - 1  # an engine that passes every message agrees


def test_a3_copies_not_tokens() -> None:
    plan, tokens = Plan(dp=8, ep=8), 24
    dispatch = ledger.expert_exchange(MIXTRAL, plan, tokens=tokens, dtype_bytes=2)[0]
    sent = ledger.sent_bytes([dispatch], world_size=8) / (MIXTRAL.d_model * 2)
    assert sent == 2 * 7 / 8 * tokens  # activations: more than the rank has tokens
    assert sent > tokens


def test_a4_t_minus_one_sends_of_keys_and_values() -> None:
    tokens, degree = 32 * 1024, 8
    ring = ledger.ring_attention(LLAMA, Plan(cp=degree), batch=1, seq=tokens, dtype_bytes=2)
    assert len(ring) == degree - 1
    numbers = ring[0].num_bytes / 2
    assert numbers == 2 * tokens / degree * LLAMA.num_kv_heads * LLAMA.head_dim
    assert numbers == tokens / degree * LLAMA.d_model / 4  # two tensors, each an eighth of d wide
    several = ledger.ulysses(LLAMA, Plan(cp=degree), batch=1, seq=tokens)
    fused = ledger.ulysses_fused(LLAMA, Plan(cp=degree), batch=1, seq=tokens)
    assert (len(several), len(fused)) == (4, 2)


def test_a6_the_optimum_is_where_the_slopes_cancel() -> None:
    def parts(degree: int, batch: int) -> tuple[float, float]:
        memory = strategies.decode_bytes(LLAMA, batch=batch) / degree / H100.hbm_Bps
        return memory, strategies.decode_step_s(LLAMA, degree, H100, NDR, batch=batch) - memory

    # One sequence: nearly all of a ring's time is latency, which grows with T. There the rule is near the optimum.
    best = strategies.best_degree(LLAMA, H100, NDR)
    memory, comms = parts(round(best), 1)
    assert comms == pytest.approx(memory, rel=0.2)
    # Many: bytes take time too, and hardly more on more ranks. The rule stops too early.
    whole = strategies.best_whole_degree(LLAMA, H100, NDR, most=64, batch=256)
    assert whole in (int(strategies.best_degree(LLAMA, H100, NDR, batch=256)) + extra for extra in (0, 1))
    memory, comms = parts(whole - 1, 256)
    assert comms > 1.3 * memory
    assert sum(parts(whole, 256)) < memory + comms
    assert strategies.slopes(LLAMA, whole - 1, H100, NDR, batch=256).helps


def test_a8_tp_splits_every_matrix_and_pp_deals_out_layers() -> None:
    plan = Plan(pp=2, tp=8)
    assert [len(stage) for stage in per_rank.stages(LLAMA, plan.pp)] == [40, 40]
    held = per_rank.weights(LLAMA, plan)
    for stage, rank in product(range(2), range(8)):  # an eighth of each of 40 layers, not some layers whole
        assert held[stage][rank].matrices == LLAMA.matrix_parameters / 2 / 8
    assert {one.axis for one in ledger.forward(LLAMA, plan, batch=1, seq=1)} == {"tp", "pp"}


@pytest.mark.parametrize("degree", [2, 4, 8])
@pytest.mark.parametrize("tokens", [1, 64, 8192])
def test_a9_a_pipeline_sends_least_of_all_that_split_a_model(degree: int, tokens: int) -> None:
    for shape in (LLAMA, MIXTRAL):
        sent = {row.strategy: row.forward_bytes for row in strategies.table(shape, degree, tokens=tokens)}
        assert sent.pop("DP") == 0
        least = sent.pop("PP")
        assert all(least < other for other in sent.values()), sent
