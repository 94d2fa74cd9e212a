"""theory.work: FLOPs and bytes of whole plans, by other counts and by what a plan may not change."""

from __future__ import annotations

import random
from dataclasses import replace
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardlab.theory import per_rank, work
from shardlab.theory.degrees import Plan
from shardlab.theory.precision import KV_PRECISIONS, PRECISIONS
from shardlab.theory.transformer import MODELS, Experts, Latent, Shape
from tests.theory.shapes import any_shapes, shapes_and_plans

BF16, KV = PRECISIONS["bf16"], KV_PRECISIONS["bf16"]
DEEPSEEK, MIXTRAL, LLAMA = MODELS["deepseek-v3"], MODELS["mixtral-8x7b"], MODELS["llama-3-70b"]
SMALL = Shape(3, 16, 24, 4, 4, 6, 96, moe=Experts(8, 2, 8, 1, 1), mla=Latent(8, 12, 2, 4, 4))


@given(any_shapes)
def test_one_token_costs_two_flops_a_weight_that_it_meets(shape: Shape) -> None:
    found = sum(work.stage_flops(shape, Plan(), batch=1, seq=1))
    attention = shape.num_layers * work.attention_flops(shape, shape.num_heads, seq=1)
    assert found == 2 * shape.matmul_parameters + attention


def test_latent_attention_by_counting_every_pair_in_both_forms() -> None:
    # One head of DeepSeek-V3: 192 + 128 wide expanded, 576 + 512 absorbed.
    prefill = sum(2 * (192 + 128) for query in range(5) for key in range(query + 1))
    assert work.attention_flops(DEEPSEEK, 1, seq=5) == prefill
    decode = 1001 * 2 * (576 + 512)
    expanding = 1001 * 2 * (192 + 128) + 1000 * 2 * 512 * (128 + 128)
    assert work.attention_flops(DEEPSEEK, 1, seq=1, past=1000) == decode < expanding
    # A long chunk after a short past is a prefill again.
    chunk = work.attention_flops(DEEPSEEK, 1, seq=4096, past=128)
    assert chunk == (4096 * 128 + 4096 * 4097 // 2) * 2 * 320 + 128 * 2 * 512 * 256


@given(shapes_and_plans(), st.integers(1, 4), st.integers(0, 40))
def test_no_plan_makes_the_work_go_away(one: tuple[Shape, Plan], batch: int, past: int) -> None:
    shape, plan = one
    seq = 2 * plan.cp
    found = work.stage_flops(shape, plan, batch=batch, seq=seq, past=past)
    alone = work.stage_flops(shape, Plan(), batch=batch, seq=seq, past=past)[0]
    assert len(found) == plan.pp
    assert sum(found) * plan.tp * plan.cp >= alone * (1 - 1e-12)
    if plan.tp == plan.cp == 1:
        assert sum(found) == pytest.approx(alone)


def test_context_parallelism_divides_a_prompt_and_the_keys_of_a_decoded_token() -> None:
    whole = work.stage_flops(LLAMA, Plan(), batch=1, seq=4096)[0]
    assert work.stage_flops(LLAMA, Plan(cp=4), batch=1, seq=4096)[0] == whole / 4
    token = work.stage_flops(LLAMA, Plan(cp=4), batch=1, seq=1, past=4095)[0]
    keys = 80 * 4 * 64 * 128 * 4096 / 4  # a quarter of the keys; the matrices are worked on every cp rank
    assert token == 2 * LLAMA.matmul_parameters + keys


def test_experts_do_the_same_work_wherever_they_are() -> None:
    whole = work.stage_flops(SMALL, Plan(), batch=8, seq=16)[0]
    for plan in (Plan(tp=4), Plan(tp=4, ep=2), Plan(tp=4, ep=4), Plan(dp=2, tp=4, ep=8), Plan(tp=2, cp=2, ep=4)):
        moe = 2 * work._expert_flops(SMALL, plan, batch=8, seq=16) * plan.tp * plan.cp
        alone = 2 * work._expert_flops(SMALL, Plan(), batch=8, seq=16)
        # The router runs on every tp rank; nothing else is done twice.
        routers = 2 * 2 * 8 * 16 * SMALL.router_parameters * (plan.tp - 1)
        assert moe - routers == pytest.approx(alone), plan
    assert whole > alone


def test_tokens_that_enter_an_ep_group() -> None:
    def entering(seq: int, **degrees: int) -> int:
        return work.dispatched_tokens(SMALL, Plan(**degrees), batch=3, seq=seq)

    assert entering(8, tp=4, ep=4) == entering(8, dp=2, tp=4, ep=2) == 3 * 8  # inside one tp axis: its tokens
    assert entering(8, dp=2, tp=4, ep=8) == 2 * 3 * 8  # two replicas
    assert entering(8, cp=2, tp=2, ep=2) == 3 * 4  # half a sequence
    assert entering(8, cp=2, tp=2, ep=4) == 3 * 8  # both halves
    assert entering(1, cp=2, tp=2, ep=4) == 3  # a decoded token that both cp ranks have counts once
    assert entering(1, dp=2, cp=2, tp=2, ep=8) == 6


@pytest.mark.parametrize(("num_experts", "top"), [(8, 2), (128, 8), (4, 4)])
def test_expected_experts_against_a_draw_and_the_exact_case(num_experts: int, top: int) -> None:
    assert work.expected_experts(num_experts, top, 1) == pytest.approx(top)
    assert work.expected_experts(num_experts, top, 10_000) == pytest.approx(num_experts)
    # Two tokens, exactly: k + (the second's choices outside the first's).
    overlap = sum(i * comb(top, i) * comb(num_experts - top, top - i) / comb(num_experts, top) for i in range(top + 1))
    assert work.expected_experts(num_experts, top, 2) == pytest.approx(2 * top - overlap)
    draw, rounds = random.Random(0), 3000
    met = sum(
        len({expert for _ in range(12) for expert in draw.sample(range(num_experts), top)}) for _ in range(rounds)
    )
    assert met / rounds == pytest.approx(work.expected_experts(num_experts, top, 12), rel=0.01)


def test_a_decoded_token_reads_the_experts_that_it_meets() -> None:
    found = work.stage_hbm_bytes(MIXTRAL, Plan(), BF16, KV, batch=1, seq=1)[0]
    lookup = (MIXTRAL.vocab_size - 1) * MIXTRAL.d_model
    assert found == pytest.approx(2 * (MIXTRAL.active_parameters - lookup) + MIXTRAL.kv_bytes_per_token(2))
    many = work.stage_hbm_bytes(MIXTRAL, Plan(), BF16, KV, batch=32_000, seq=1)[0]
    assert many == pytest.approx(2 * MIXTRAL.num_parameters + 32_000 * MIXTRAL.kv_bytes_per_token(2))


def test_a_wider_ep_group_wakes_more_of_the_experts_that_a_rank_has() -> None:
    def awake(plan: Plan) -> float:
        held = 3 * DEEPSEEK.d_model * 2048 * 256 / plan.ep
        return 1 - work._inactive_weights(DEEPSEEK, plan, batch=4, seq=1) / held

    assert awake(Plan(dp=1, tp=1)) < awake(Plan(dp=8, ep=8)) < awake(Plan(dp=64, ep=64)) <= 1
    assert awake(Plan(dp=8, ep=8)) * 256 == pytest.approx(work.expected_experts(256, 8, 32))


@given(shapes_and_plans(), st.integers(1, 4), st.integers(0, 40))
def test_bytes_lie_between_the_cache_and_everything_that_a_rank_holds(
    one: tuple[Shape, Plan], batch: int, past: int
) -> None:
    shape, plan = one
    found = work.stage_hbm_bytes(shape, plan, BF16, KV, batch=batch, seq=1, past=past)
    cached = per_rank.plan_kv_bytes_per_token(shape, plan, KV)
    held = per_rank.weights(shape, plan)
    for stage, read in enumerate(found):
        kv = batch * (past + 1) * max(cached[stage])
        assert kv < read <= max(w.num_bytes(BF16) for w in held[stage]) + kv + 1e-6


def test_fewer_bits_are_fewer_bytes_by_what_is_quantised() -> None:
    bf16 = work.stage_hbm_bytes(LLAMA, Plan(tp=8), BF16, KV, batch=1, seq=1)[0]
    int4 = work.stage_hbm_bytes(LLAMA, Plan(tp=8), PRECISIONS["int4"], KV, batch=1, seq=1)[0]
    assert bf16 - int4 == pytest.approx(LLAMA.matrix_parameters / 8 * (16 - 4.125) / 8)
    fp8_cache = work.stage_hbm_bytes(LLAMA, Plan(tp=8), BF16, KV_PRECISIONS["fp8"], batch=1, seq=1, past=999)[0]
    assert fp8_cache == bf16 + 1000 * LLAMA.kv_bytes_per_token(1) / 8 - LLAMA.kv_bytes_per_token(2) / 8


def test_stages_split_a_forward_and_their_ends_have_the_tables() -> None:
    plan = Plan(pp=3)
    flops = work.stage_flops(LLAMA, plan, batch=2, seq=64, logit_positions=1)
    assert sum(flops) == work.stage_flops(LLAMA, Plan(), batch=2, seq=64, logit_positions=1)[0]
    head = 2 * 2 * LLAMA.embedding_parameters  # one position of each of two sequences
    assert flops[0] == flops[1] and flops[2] == flops[1] * 26 / 27 + head
    read = work.stage_hbm_bytes(LLAMA, plan, BF16, KV, batch=1, seq=1)
    assert sum(read) == work.stage_hbm_bytes(LLAMA, Plan(), BF16, KV, batch=1, seq=1)[0]
    tied = replace(LLAMA, tied_embeddings=True)
    assert work.stage_hbm_bytes(tied, plan, BF16, KV, batch=1, seq=1) == read  # two copies, each used as its own
    assert work.moe_layers(DEEPSEEK, Plan(pp=4)) == (13, 15, 15, 15)


def test_sizes_and_plans_that_do_not_work_are_named() -> None:
    with pytest.raises(ValueError, match="batch=0"):
        work.stage_hbm_bytes(SMALL, Plan(), BF16, KV, batch=0, seq=1)
    with pytest.raises(ValueError, match="ep=2: .* has no experts"):
        work.stage_flops(LLAMA, Plan(tp=2, ep=2), batch=1, seq=1)
