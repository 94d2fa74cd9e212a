"""theory.per_rank: a rank's weights counted tensor by tensor, and the floor of the KV cache at T = K."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.theory.shapes import shapes

from shardlab.theory import per_rank
from shardlab.theory.split import even_split, kv_heads_of, largest_tp
from shardlab.theory.transformer import MODELS, Shape


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
