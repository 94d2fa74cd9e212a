"""theory.transformer against published counts, and against a count made tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

import pytest
from hypothesis import given

from shardlab.theory.transformer import MODELS, Experts, Latent, Shape
from tests.theory.shapes import any_shapes, shapes


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-3-70b", 70.55),
        ("llama-3-8b", 8.03),
        ("llama-2-7b", 6.74),
        ("llama-2-70b", 68.98),
        ("mistral-7b", 7.24),
        ("smollm2-135m", 0.1345),
        ("qwen3-0.6b", 0.596),
        ("qwen3-8b", 8.19),
        ("llama-3-405b", 405.85),
        ("qwen3-32b", 32.76),
        ("qwen3-235b-a22b", 235.09),
        ("mixtral-8x7b", 46.7),
        ("deepseek-v3", 671.03),
    ],
)
def test_published_parameter_counts(name: str, billions: float) -> None:
    assert MODELS[name].num_parameters / 1e9 == pytest.approx(billions, rel=1e-3)


def test_published_active_parameters() -> None:
    # Mixtral: 12.9 B a token, the lookup included. Qwen3-235B-A22B is named for its 22 B. DeepSeek-V3's README_WEIGHTS
    # says 36.6 B, the output matrix included and the lookup not.
    deepseek = MODELS["deepseek-v3"]
    assert MODELS["mixtral-8x7b"].active_parameters / 1e9 == pytest.approx(12.9, abs=0.05)
    assert MODELS["qwen3-235b-a22b"].active_parameters / 1e9 == pytest.approx(22, abs=0.5)
    assert (deepseek.active_parameters - deepseek.embedding_parameters) / 1e9 == pytest.approx(36.6, abs=0.05)


def layer_tensors(shape: Shape, layer: int) -> list[tuple[int, ...]]:
    """Every weight of one layer with experts or latent attention, by its shape."""
    d, mla, moe = shape.d_model, shape.mla, shape.moe
    found: list[tuple[int, ...]] = [(d,), (d,)]
    if mla:
        width = shape.num_heads * (mla.nope_dim + mla.rope_dim)
        if mla.q_rank is None:
            found += [(width, d)]
        else:
            found += [(mla.q_rank, d), (mla.q_rank,), (width, mla.q_rank)]
        found += [(mla.kv_rank + mla.rope_dim, d), (mla.kv_rank,)]
        found += [(shape.num_heads * (mla.nope_dim + mla.v_dim), mla.kv_rank), (d, shape.num_heads * mla.v_dim)]
        if shape.attention_bias:
            found += [(d,), (mla.kv_rank + mla.rope_dim,), (mla.q_rank or 0,)]
    else:
        q, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        found += [(q, d), (kv, d), (kv, d), (d, q)]
        found += [(q,), (kv,), (kv,)] if shape.attention_bias or shape.qkv_bias else []
        found += [(d,)] if shape.attention_bias else []
        found += [(shape.head_dim,)] * 2 if shape.qk_norm else []
    if moe and layer >= moe.num_dense_layers:
        found += [(moe.num_experts, d), *[(moe.d_ff, d)] * 3 * moe.num_experts]
        widths = [moe.num_shared * moe.d_ff] if moe.num_shared else []
    else:
        widths = [shape.d_ff]
    for f in widths:
        found += [(f, d)] * 3 + ([(f,), (f,), (d,)] if shape.mlp_bias else [])
    return found


@given(any_shapes)
def test_experts_and_latents_are_the_sum_over_the_tensors(shape: Shape) -> None:
    layers = [tensor for layer in range(shape.num_layers) for tensor in layer_tensors(shape, layer)]
    tables = shape.vocab_size * shape.d_model * (1 if shape.tied_embeddings else 2)
    assert shape.num_parameters == sum(prod(tensor) for tensor in layers) + tables + shape.d_model
    assert shape.active_parameters <= shape.num_parameters
    idle = shape.moe.num_experts - shape.moe.experts_per_token if shape.moe else 0
    assert shape.num_parameters - shape.active_parameters == shape.num_moe_layers * idle * shape.expert_parameters
    routers = shape.num_moe_layers * shape.d_model * (shape.moe.num_experts if shape.moe else 0)
    assert shape.matrix_parameters == sum(prod(tensor) for tensor in layers if len(tensor) == 2) - routers


def tensors(shape: Shape) -> list[tuple[int, ...]]:
    """Every weight of a Hugging Face checkpoint of this shape, one by one."""
    d, f, h = shape.d_model, shape.d_ff, shape.head_dim
    q, kv = shape.num_heads * h, shape.num_kv_heads * h
    layer: list[tuple[int, ...]] = [(q, d), (kv, d), (kv, d), (d, q), (f, d), (f, d), (d, f), (d,), (d,)]
    if shape.attention_bias:
        layer += [(q,), (kv,), (kv,), (d,)]
    if shape.mlp_bias:
        layer += [(f,), (f,), (d,)]
    if shape.qk_norm:
        layer += [(h,), (h,)]
    tables = [(shape.vocab_size, d)] * (1 if shape.tied_embeddings else 2)
    return [*tables, *(layer * shape.num_layers), (d,)]


@given(shapes)
def test_parameters_are_the_sum_over_the_tensors(shape: Shape) -> None:
    assert shape.num_parameters == sum(prod(tensor) for tensor in tensors(shape))
    assert shape.weight_bytes(2) == 2 * shape.num_parameters


def test_kv_cache_of_a_token() -> None:
    assert MODELS["llama-3-70b"].kv_bytes_per_token(2) == 327_680
    assert MODELS["llama-2-7b"].kv_bytes_per_token(2) == 524_288


def test_matmul_parameters_leave_out_the_lookup_and_the_norms() -> None:
    shape = MODELS["llama-3-8b"]
    norms = shape.d_model * (2 * shape.num_layers + 1)
    assert shape.matmul_parameters == shape.num_parameters - norms - shape.embedding_parameters
    tied = replace(shape, tied_embeddings=True)
    assert tied.matmul_parameters == shape.matmul_parameters


@pytest.mark.parametrize("field", ["num_layers", "d_model", "d_ff", "num_heads", "head_dim", "vocab_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_number_that_is_no_positive_integer_is_named(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field}={value}"):
        replace(MODELS["llama-3-8b"], **{field: value})


def test_kv_heads_divide_the_heads() -> None:
    with pytest.raises(ValueError, match="num_kv_heads=5 does not divide num_heads=32"):
        replace(MODELS["llama-3-8b"], num_kv_heads=5)


def test_models_know_their_names() -> None:
    assert all(shape.name == name for name, shape in MODELS.items())


def test_latent_attention_caches_one_vector_a_token() -> None:
    deepseek = MODELS["deepseek-v3"]
    assert deepseek.kv_bytes_per_token(2) == 61 * (512 + 64) * 2
    # The paper's point: as many heads with K and V of their own would cache 57 times as much.
    plain = replace(deepseek, mla=None, head_dim=128)
    assert plain.kv_bytes_per_token(2) / deepseek.kv_bytes_per_token(2) == pytest.approx(2 * 128 * 128 / 576)


def test_matrices_are_all_but_tables_routers_norms_and_biases() -> None:
    mixtral = MODELS["mixtral-8x7b"]
    kept = 2 * mixtral.embedding_parameters + 32 * mixtral.d_model * 8 + mixtral.d_model * (2 * 32 + 1)
    assert mixtral.num_parameters - mixtral.matrix_parameters == kept
    llama = MODELS["llama-3-8b"]
    assert llama.matrix_parameters + llama.embedding_parameters == llama.matmul_parameters


@given(shapes)
def test_qkv_bias_is_attention_bias_without_the_one_of_o(shape: Shape) -> None:
    plain = replace(shape, attention_bias=False)
    qkv, all_four = replace(plain, qkv_bias=True), replace(plain, attention_bias=True)
    assert all_four.num_parameters - qkv.num_parameters == shape.num_layers * shape.d_model
    assert qkv.num_parameters > plain.num_parameters


MOE = Experts(8, 2, 16)
MLA = Latent(None, 8, 2, 4, 4)
SMALL = Shape(2, 8, 12, 4, 4, 6, 100)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Experts(0, 1, 4), "moe.num_experts=0"),
        (lambda: Experts(4, 5, 4), r"moe.experts_per_token=5: allowed: 1..4"),
        (lambda: Experts(4, 2, 4, num_shared=-1), "moe.num_shared=-1: an integer of 0 or more"),
        (lambda: Experts(4, True, 4), "moe.experts_per_token=True"),
        (lambda: Latent(0, 8, 2, 4, 4), "mla.q_rank=0"),
        (lambda: Latent(None, 8, 0, 4, 4), "mla.rope_dim=0"),
        (lambda: replace(SMALL, moe=replace(MOE, num_dense_layers=2)), r"num_dense_layers=2 leaves no .* 0..1"),
        (lambda: replace(SMALL, mla=MLA, head_dim=4), r"head_dim=4: with mla it is nope_dim \+ rope_dim = 6"),
        (lambda: replace(SMALL, mla=MLA, num_kv_heads=2), "num_kv_heads=2: with mla it is num_heads=4"),
        (lambda: replace(SMALL, mla=MLA, qk_norm=True), "qk_norm and qkv_bias"),
        (lambda: replace(SMALL, qkv_bias=True, attention_bias=True), "qkv_bias=True"),
    ],
)
def test_what_is_no_mixture_and_no_latent_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
