"""theory.precision: bits with their scales, and what a quantised 70B model really takes."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given

from shardlab.theory.precision import KV_PRECISIONS, PRECISIONS, kv_precision, precision, weight_bytes
from shardlab.theory.transformer import MODELS, Shape
from tests.theory.shapes import any_shapes

LLAMA = MODELS["llama-3-70b"]


@pytest.mark.parametrize(
    ("name", "bits"),
    [("fp32", 32), ("bf16", 16), ("fp16", 16), ("fp8", 8), ("int4", Fraction(33, 8)), ("int4-g32", Fraction(9, 2))],
)
def test_bits_of_a_weight_with_its_share_of_the_scale(name: str, bits: Fraction) -> None:
    assert precision(name).bits_per_weight == bits


def test_llama_70b_in_int4_told_three_ways() -> None:
    int4 = PRECISIONS["int4"]
    assert LLAMA.num_parameters * int4.bits / 8 / 1e9 == pytest.approx(35.28, abs=0.01)  # the chapter: about 35 GB
    assert int4.matrix_bytes(LLAMA.num_parameters) / 1e9 == pytest.approx(36.38, abs=0.01)  # with scales
    # As checkpoints are: 68.45 billion weights of 4.125 bits, and two tables and the norms in bf16.
    tables_and_norms = 2 * 128256 * 8192 + (2 * 80 + 1) * 8192
    by_hand = (LLAMA.num_parameters - tables_and_norms) * 4.125 / 8 + 2 * tables_and_norms
    assert weight_bytes(LLAMA, int4) == by_hand
    assert by_hand / 1e9 == pytest.approx(39.50, abs=0.01)


@given(any_shapes)
def test_where_nothing_is_quantised_it_is_bytes_times_weights(shape: Shape) -> None:
    assert weight_bytes(shape, PRECISIONS["bf16"]) == shape.weight_bytes(2)
    assert weight_bytes(shape, PRECISIONS["fp32"]) == shape.weight_bytes(4)
    order = [weight_bytes(shape, PRECISIONS[name]) for name in ("int4", "int4-g32", "fp8", "bf16", "fp32")]
    assert order == sorted(order)
    # At one bit the matrices are gone; what is left is the embeddings, norms, biases and routers.
    kept = 2 * (shape.num_parameters - shape.matrix_parameters)
    assert order[0] > kept


def test_the_cache_of_a_layer() -> None:
    bf16, fp8, int8 = (KV_PRECISIONS[name] for name in ("bf16", "fp8", "int8"))
    assert bf16.layer_bytes(LLAMA, 8) * 80 == LLAMA.kv_bytes_per_token(2)
    assert fp8.layer_bytes(LLAMA, 8) * 80 == LLAMA.kv_bytes_per_token(1)
    assert int8.layer_bytes(LLAMA, 1) == 2 * (128 + 4)  # K and V, each with an fp32 scale
    deepseek = MODELS["deepseek-v3"]
    assert bf16.layer_bytes(deepseek, 128) == bf16.layer_bytes(deepseek, 1) == 576 * 2
    assert int8.layer_bytes(deepseek, 1) == 576 + 4


def test_names_that_are_not_known() -> None:
    with pytest.raises(ValueError, match="precision='int3'; allowed: fp32, bf16, fp16, fp8, int4, int4-g32"):
        precision("int3")
    with pytest.raises(ValueError, match="kv_precision='int4'; allowed: fp32, bf16, fp8, int8"):
        kv_precision("int4")
    assert all(name == one.name for name, one in [*PRECISIONS.items(), *KV_PRECISIONS.items()])
