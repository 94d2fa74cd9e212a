"""theory.transformer against published counts, and against a count made tensor by tensor."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
from hypothesis import given
from tests.theory.shapes import shapes

from shardlab.theory.transformer import MODELS, Shape


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
    ],
)
def test_published_parameter_counts(name: str, billions: float) -> None:
    assert MODELS[name].num_parameters / 1e9 == pytest.approx(billions, rel=1e-3)


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
