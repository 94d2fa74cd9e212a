"""theory.per_rank: a rank's weights counted tensor by tensor, and the floor of the KV cache at T = K."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardlab.theory import per_rank
from shardlab.theory.degrees import Plan
from shardlab.theory.precision import KV_PRECISIONS, PRECISIONS
from shardlab.theory.split import even_split, kv_heads_of, largest_tp
from shardlab.theory.transformer import MODELS, Experts, Latent, Shape
from tests.theory.shapes import shapes, shapes_and_plans


def by_hand(shape: Shape, tp: int, rank: int) -> int:
    """One rank's weights, added tensor by tensor."""
    d, h = shape.d_model, shape.head_dim
    heads = even_split(shape.num_heads, tp)[rank]
    q = len(heads) * h
    kv = len(kv_heads_of(heads, shape.num_heads, shape.num_kv_heads)) * h
    f, v = len(even_split(shape.d_ff, tp)[rank]), len(even_split(shape.vocab_size, tp)[rank])
    layer = q * d + kv * d + kv * d + d * q + f * d + f * d + d * f + d + d
    if shape.attention_bias:
        layer += q + kv + kv + d
    if shape.mlp_bias:
        layer += f + f + d
    if shape.qk_norm:
        layer += h + h
    return shape.num_layers * layer + d + v * d * (1 if shape.tied_embeddings else 2)


@given(shape=shapes, data=st.data())
def test_a_ranks_weights_are_the_sum_over_its_tensors(shape: Shape, data: st.DataObject) -> None:
    tp = data.draw(st.integers(1, largest_tp(shape)))
    counts = per_rank.num_parameters(shape, tp)
    assert counts == tuple(by_hand(shape, tp, rank) for rank in range(tp))
    assert sum(counts) >= shape.num_parameters


def test_one_rank_holds_the_model() -> None:
    for shape in MODELS.values():
        assert per_rank.num_parameters(shape, 1) == (shape.num_parameters,)
        assert per_rank.kv_bytes_per_token(shape, 1, 2) == (shape.kv_bytes_per_token(2),)


def test_smollm_on_four_ranks_splits_its_heads_unevenly() -> None:
    smollm = MODELS["smollm2-135m"]
    assert [len(one) for one in per_rank.query_heads(smollm, 4)] == [3, 2, 2, 2]
    assert per_rank.kv_heads(smollm, 4) == (range(0, 1), range(1, 2), range(1, 3), range(2, 3))


def test_kv_bytes_fall_to_the_floor_at_t_equal_k_and_stay() -> None:
    shape = MODELS["llama-3-70b"]
    per_token = {tp: max(per_rank.kv_bytes_per_token(shape, tp, 2)) for tp in (1, 2, 4, 8, 16, 32, 64)}
    assert [per_token[tp] for tp in (1, 2, 4, 8)] == [327_680, 163_840, 81_920, 40_960]
    assert per_token[8] == per_token[16] == per_token[32] == per_token[64]


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="tp=10"):
        per_rank.num_parameters(MODELS["smollm2-135m"], 10)


DEEPSEEK, MIXTRAL = MODELS["deepseek-v3"], MODELS["mixtral-8x7b"]
BF16, KV = PRECISIONS["bf16"], KV_PRECISIONS["bf16"]


def coordinates(rank: int, plan: Plan) -> tuple[int, int, int]:
    """dp, cp and tp of a rank of one stage, tp fastest."""
    rest, tp = divmod(rank, plan.tp)
    return (*divmod(rest, plan.cp), tp)


def expert_columns(shape: Shape, plan: Plan, rank: int) -> set[tuple[int, int]]:
    """(expert, column) pairs of a rank of one stage: its ep group's ranks divide the experts, and ranks of one tp axis
    that have the same experts divide the columns."""
    assert shape.moe
    mine = even_split(shape.moe.num_experts, plan.ep)[rank % plan.ep]
    here = coordinates(rank, plan)[:2]
    twins = [
        other
        for other in range(plan.dp * plan.cp * plan.tp)
        if coordinates(other, plan)[:2] == here and other % plan.ep == rank % plan.ep
    ]
    columns = even_split(shape.moe.d_ff, len(twins))[twins.index(rank)]
    return {(expert, column) for expert in mine for column in columns}


@given(shapes_and_plans())
def test_every_expert_is_somewhere_in_every_ep_group(one: tuple[Shape, Plan]) -> None:
    shape, plan = one
    if shape.moe is None:
        return
    alone = per_rank.weights(replace(shape, moe=replace(shape.moe, num_shared=0)), replace(plan, pp=1))[0]
    bare = replace(shape, moe=None, num_layers=shape.num_layers)
    ranks = plan.dp * plan.cp * plan.tp
    everything = {(e, c) for e in range(shape.moe.num_experts) for c in range(shape.moe.d_ff)}
    held = [expert_columns(shape, plan, rank) for rank in range(ranks)]
    span = max(plan.ep, plan.tp)
    for first in range(0, ranks, span):
        together = [pair for rank in range(first, first + span) for pair in held[rank]]
        assert len(together) == len(set(together)) and set(together) == everything
    mlp = per_rank.weights(bare, Plan(tp=plan.tp))[0]
    for rank in range(ranks):
        tp = rank % plan.tp
        dense = 3 * shape.d_model * len(even_split(shape.d_ff, plan.tp)[tp])
        gained = alone[tp].matrices - mlp[tp].matrices
        assert gained == shape.num_moe_layers * (3 * shape.d_model * len(held[rank]) - dense)


@given(shapes_and_plans())
def test_together_the_ranks_hold_the_model_at_least_once(one: tuple[Shape, Plan]) -> None:
    shape, plan = one
    held = per_rank.weights(shape, plan)
    assert [len(stage) for stage in held] == [plan.tp] * plan.pp
    # Ranks that differ in dp or cp alone hold the same, but for which of the experts: ep ranks share one set of them.
    spread = plan.ep // plan.tp if plan.ep > plan.tp else 1
    total = sum(one.total for stage in held for one in stage)
    assert total * spread >= shape.num_parameters
    if plan.tp == plan.ep == 1:
        copies = shape.embedding_parameters if shape.tied_embeddings and plan.pp > 1 else 0
        assert total == shape.num_parameters + copies
        assert sum(one.matrices for stage in held for one in stage) == shape.matrix_parameters


@given(shapes)
def test_more_ranks_never_hold_more(shape: Shape) -> None:
    degrees = [tp for tp in (1, 2, 4, 8) if tp <= largest_tp(shape)]
    held = [per_rank.weights(shape, Plan(tp=tp)) for tp in degrees]
    busiest = [max(one.num_bytes(BF16) for stage in stages for one in stage) for stages in held]
    cached = [max(per_rank.plan_kv_bytes_per_token(shape, Plan(tp=tp), KV)[0]) for tp in degrees]
    if shape.num_heads % 8 == 0 or shape.num_heads == shape.num_kv_heads:
        assert busiest == sorted(busiest, reverse=True)
        assert cached == sorted(cached, reverse=True)
    floor = KV.layer_bytes(shape, 1) * shape.num_layers
    assert min(cached) >= floor


def test_where_nothing_is_replicated_the_sum_is_the_model() -> None:
    # Split by hand: Llama 3 70B over 8 ranks copies the norms only; over 4 stages nothing at all.
    llama = MODELS["llama-3-70b"]
    norms = llama.d_model * (2 * llama.num_layers + 1)
    assert sum(per_rank.num_parameters(llama, 8)) == llama.num_parameters + 7 * norms
    assert sum(one.total for (one,) in per_rank.weights(llama, Plan(pp=4))) == llama.num_parameters
    # Mixtral over 8 ranks, by columns or by whole experts: the same bytes, the router and the norms in copies.
    copied = 7 * (MIXTRAL.d_model * (2 * 32 + 1) + 32 * MIXTRAL.router_parameters)
    for plan in (Plan(tp=8), Plan(tp=8, ep=8), Plan(tp=8, ep=2)):
        held = per_rank.weights(MIXTRAL, plan)[0]
        assert sum(one.total for one in held) == MIXTRAL.num_parameters + copied
    # dp=8 with ep=8: each replica's rank holds one expert a layer and all of the rest.
    (attention_rank,) = per_rank.weights(MIXTRAL, Plan(dp=8, ep=8))[0]
    assert attention_rank.total == MIXTRAL.num_parameters - 7 * 32 * MIXTRAL.expert_parameters


def test_stages_differ_by_the_tables_and_the_dense_layers() -> None:
    held = per_rank.weights(DEEPSEEK, Plan(pp=4))
    layers = [len(stage) for stage in per_rank.stages(DEEPSEEK, 4)]
    assert layers == [16, 15, 15, 15]
    moe_layer = DEEPSEEK.attention_parameters + 2 * DEEPSEEK.d_model + DEEPSEEK.router_parameters
    moe_layer += 257 * DEEPSEEK.expert_parameters
    dense_layer = moe_layer - DEEPSEEK.router_parameters - 257 * DEEPSEEK.expert_parameters + DEEPSEEK.mlp_parameters
    table = DEEPSEEK.embedding_parameters
    assert [stage[0].total for stage in held] == [
        3 * dense_layer + 13 * moe_layer + table,
        15 * moe_layer,
        15 * moe_layer,
        15 * moe_layer + table + DEEPSEEK.d_model,
    ]


def test_the_cache_of_a_plan() -> None:
    llama = MODELS["llama-3-70b"]

    def busiest(shape: Shape, plan: Plan) -> float:
        return max(max(stage) for stage in per_rank.plan_kv_bytes_per_token(shape, plan, KV))

    whole = llama.kv_bytes_per_token(2)
    assert busiest(llama, Plan(tp=8, pp=4, cp=2)) == whole / 64
    assert busiest(llama, Plan(tp=64)) == busiest(llama, Plan(tp=8)) == busiest(llama, Plan(tp=4, cp=2))
    assert busiest(llama, Plan(pp=3)) == whole * 27 / 80
    assert busiest(llama, Plan(dp=8)) == whole
    # Latent attention has no heads to split: every tp rank keeps the whole vector, so only cp and pp help.
    assert busiest(DEEPSEEK, Plan(tp=8)) == busiest(DEEPSEEK, Plan()) == DEEPSEEK.kv_bytes_per_token(2)
    assert busiest(DEEPSEEK, Plan(tp=8, cp=4)) == DEEPSEEK.kv_bytes_per_token(2) / 4
    assert per_rank.kv_bytes_per_token(DEEPSEEK, 4, 2) == (DEEPSEEK.kv_bytes_per_token(2),) * 4


def test_latent_attention_by_hand() -> None:
    shape = Shape(2, 16, 24, 3, 3, 6, 30, attention_bias=True, mla=Latent(5, 7, 2, 4, 3))
    assert per_rank.num_parameters(shape, 1) == (shape.num_parameters,)
    heads = 2  # of 3 on the first of 2 ranks
    attention = 5 * 16 + 5 + 5 + heads * 6 * 5 + (7 + 2) * 16 + 9 + 7 + heads * (4 + 3) * 7 + 16 * heads * 3 + 16
    rest = 2 * 16 + 3 * 16 * 12
    assert per_rank.num_parameters(shape, 2)[0] == 2 * (attention + rest) + 2 * 15 * 16 + 16


@pytest.mark.parametrize(
    ("shape", "plan", "message"),
    [
        (MODELS["llama-3-8b"], Plan(pp=33), "pp=33 cannot split num_layers=32.*1..32"),
        (MODELS["llama-3-8b"], Plan(tp=2, ep=2), "ep=2: llama-3-8b has no experts; allowed: 1"),
        (MIXTRAL, Plan(dp=3, ep=3), "ep=3 does not divide num_experts=8; degrees that work: 1, 2, 4, 8"),
        (replace(MIXTRAL, moe=Experts(8, 2, 4)), Plan(tp=8), "8 ranks cannot share an expert of d_ff=4"),
        (MIXTRAL, Plan(tp=33), "tp=33"),
    ],
)
def test_plans_that_a_shape_does_not_allow(shape: Shape, plan: Plan, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        per_rank.weights(shape, plan)
