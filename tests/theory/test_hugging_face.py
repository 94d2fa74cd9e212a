"""theory.hugging_face: Shapes of config.json, weight for weight as transformers builds them, and only our error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from shardlab.theory.hugging_face import ConfigError, read_shape, shape_from_config
from shardlab.theory.transformer import MODELS, Experts, Latent


def llama(layers: int, d: int, f: int, heads: int, kv: int, vocab: int, **more: Any) -> dict[str, Any]:
    """A config.json as its makers write it, for the keys that make the shape."""
    sizes = {"num_hidden_layers": layers, "hidden_size": d, "intermediate_size": f, "num_attention_heads": heads}
    return {"model_type": "llama", **sizes, "num_key_value_heads": kv, "vocab_size": vocab, **more}


QWEN3 = {"model_type": "qwen3", "head_dim": 128}
PUBLISHED: dict[str, dict[str, Any]] = {
    "llama-3-8b": llama(32, 4096, 14336, 32, 8, 128256),
    "llama-3-70b": llama(80, 8192, 28672, 64, 8, 128256),
    "llama-3-405b": llama(126, 16384, 53248, 128, 8, 128256),
    "qwen3-0.6b": llama(28, 1024, 3072, 16, 8, 151936, **QWEN3, tie_word_embeddings=True),
    "qwen3-32b": llama(64, 5120, 25600, 64, 8, 151936, **QWEN3),
    "qwen3-235b-a22b": llama(94, 4096, 12288, 64, 4, 151936, **QWEN3)
    | {"model_type": "qwen3_moe", "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 1536},
    "mixtral-8x7b": llama(32, 4096, 14336, 32, 8, 32000, num_local_experts=8, num_experts_per_tok=2)
    | {"model_type": "mixtral"},
    "deepseek-v3": llama(61, 7168, 18432, 128, 128, 129280, q_lora_rank=1536, kv_lora_rank=512)
    | {"model_type": "deepseek_v3", "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
    | {"n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048}
    | {"first_k_dense_replace": 3, "moe_layer_freq": 1, "num_nextn_predict_layers": 1},
}
TINY_DEEPSEEK = PUBLISHED["deepseek-v3"] | {
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 10,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "vocab_size": 1000,
}
TINY = llama(3, 64, 96, 4, 2, 1000)
LLAMA_LIKE = TINY | {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": True}
TINY_MOE = TINY | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def weights_in_transformers(values: dict[str, Any]) -> int:
    """Build the model without memory and count its weights.

    Buffers are not weights: DeepSeek-V3's e_score_correction_bias (E numbers a layer) only balances the load. The layer
    that predicts a second token (num_nextn_predict_layers) is no part of the model that transformers builds.
    """
    config = AutoConfig.for_model(**values)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_size_models_have_exactly_the_weights_that_transformers_builds(name: str) -> None:
    shape = shape_from_config(PUBLISHED[name])
    assert replace(shape, name=name) == MODELS[name]
    assert shape.num_parameters == weights_in_transformers(PUBLISHED[name])


@pytest.mark.parametrize(
    "values",
    [
        TINY,
        TINY | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        TINY | {"head_dim": 24},
        TINY | {"model_type": "mistral", "attention_bias": True},
        TINY | {"model_type": "qwen2"},
        TINY | {"model_type": "qwen3", "attention_bias": True},
        TINY | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
        TINY_MOE | {"model_type": "qwen3_moe", "head_dim": 32},
        TINY_MOE | {"model_type": "qwen3_moe", "mlp_only_layers": [0, 1], "attention_bias": True},
        TINY_DEEPSEEK,
        TINY_DEEPSEEK | {"q_lora_rank": None, "attention_bias": True, "n_shared_experts": 2},
        TINY_DEEPSEEK | {"attention_bias": True, "first_k_dense_replace": 3},
        TINY_DEEPSEEK | {"model_type": "deepseek_v2", "mlp_bias": True, "n_shared_experts": 2},
        # Not known by name, but built like Llama.
        LLAMA_LIKE | {"model_type": "granite"},
        LLAMA_LIKE | {"model_type": "phi3", "pad_token_id": 0},
        LLAMA_LIKE | {"model_type": "smollm3", "pad_token_id": 0},
    ],
    ids=lambda values: "-".join(f"{key}={value}" for key, value in values.items() if TINY.get(key) != value)[:60],
)
def test_small_variants_have_exactly_the_weights_that_transformers_builds(values: dict[str, Any]) -> None:
    found = weights_in_transformers(values)
    assert shape_from_config(values).num_parameters == found
    # And from the file that transformers itself writes, with its own spelling of the keys.
    assert shape_from_config(AutoConfig.for_model(**values).to_dict()).num_parameters == found


def test_the_parts_of_deepseek() -> None:
    shape = shape_from_config(TINY_DEEPSEEK)
    assert shape.moe == Experts(8, 2, 32, num_shared=1, num_dense_layers=1)
    assert shape.mla == Latent(24, 16, 8, 12, 10)
    assert (shape.head_dim, shape.num_kv_heads) == (20, 4)
    assert shape_from_config(TINY_DEEPSEEK | {"first_k_dense_replace": 7}).moe is None
    assert shape_from_config(TINY_DEEPSEEK | {"quantization_config": {"quant_method": "fp8"}}) == shape


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            TINY | {"model_type": "gpt2"},
            "model_type: 'gpt2' is not known, and hidden_act, rms_norm_eps, tie_word.* allowed: llama",
        ),
        (TINY | {"model_type": 7}, "model_type: 7; allowed: llama"),
        (TINY_MOE | {"model_type": "gpt_oss", "hidden_act": "silu", "rms_norm_eps": 1e-5}, "num_experts"),
        (TINY | {"model_type": "gemma3", "text_config": {}}, "text_config"),
        (TINY | {"vocab_size": 0}, "vocab_size: 0: an integer of 1"),
        (TINY | {"num_key_value_heads": 3}, "num_kv_heads=3 does not divide num_heads=4"),
        (TINY_MOE | {"model_type": "qwen3_moe", "mlp_only_layers": [1]}, r"mlp_only_layers: \[1\]; allowed: the first"),
        (TINY_MOE | {"model_type": "qwen3_moe", "mlp_only_layers": 1}, "mlp_only_layers: 1; allowed: a list"),
        (TINY_MOE | {"model_type": "qwen3_moe", "decoder_sparse_step": 2}, "decoder_sparse_step: 2; allowed: 1"),
        (TINY_MOE | {"model_type": "qwen3_moe", "num_experts_per_tok": 9}, r"num_experts_per_tok: 9; allowed: 1\.\.8"),
        (TINY | {"model_type": "mixtral"}, "num_local_experts: None"),
        (TINY_DEEPSEEK | {"moe_layer_freq": 2}, "moe_layer_freq: 2; allowed: 1"),
        (TINY_DEEPSEEK | {"num_key_value_heads": 2}, "num_kv_heads=2: with mla it is num_heads=4"),
        (TINY_DEEPSEEK | {"kv_lora_rank": "512"}, "kv_lora_rank: '512'"),
        ({k: v for k, v in TINY_DEEPSEEK.items() if k != "q_lora_rank"}, "q_lora_rank: missing; allowed: .*null"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_shape_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"here: .*{message}"):
        shape_from_config(values, "here")


def test_a_file_and_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY_MOE | {"model_type": "qwen3_moe"}))
    assert (
        read_shape(tmp_path)
        == read_shape(str(tmp_path / "config.json"))
        == shape_from_config(TINY_MOE | {"model_type": "qwen3_moe"})
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"llama"', "\x00", "[" * 100_000, '{"a": ' + "1" * 5000 + "}"])
def test_a_file_that_is_no_config(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="config.json"):
        read_shape(tmp_path)


def test_a_missing_an_enormous_and_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="config.json: not found; allowed: a config.json, or a folder"):
        read_shape(tmp_path)
    with pytest.raises(ConfigError, match="not found"):
        read_shape("no\0path")
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        read_shape("x" * 5000)
    (tmp_path / "config.json").write_text(" " * (2 << 20))
    with pytest.raises(ConfigError, match="larger than"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match="not valid JSON"):
        read_shape(tmp_path)


BASES = [TINY, TINY_MOE | {"model_type": "qwen3_moe"}, TINY | {"model_type": "mixtral"}, TINY_DEEPSEEK]
KEYS = sorted({key for base in BASES for key in base} | {"mlp_only_layers", "head_dim", "decoder_sparse_step"})
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(0, 64) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    base=st.sampled_from(BASES),
    changes=st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), ANYTHING, max_size=4),
    removed=st.sets(st.sampled_from(KEYS), max_size=2),
)
def test_a_wild_config_gives_a_shape_or_our_error(
    base: dict[str, Any], changes: dict[str, Any], removed: set[str]
) -> None:
    values = {key: value for key, value in (base | changes).items() if key not in removed}
    try:
        shape = shape_from_config(values)
    except ConfigError as error:
        assert str(error).startswith("config: ")
    else:
        assert 0 < shape.active_parameters <= shape.num_parameters


@settings(max_examples=200, derandomize=True, deadline=None)
@given(cut=st.integers(0, 400), put=st.binary(max_size=4), at=st.integers(0, 400))
def test_a_file_with_damaged_bytes_gives_a_shape_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int, put: bytes, at: int
) -> None:
    raw = json.dumps(TINY_DEEPSEEK).encode()
    file = tmp_path_factory.mktemp("damaged") / "config.json"
    file.write_bytes(raw[:at] + put + raw[min(len(raw), at + cut % 7) :])
    try:
        assert read_shape(file).num_parameters > 0
    except ConfigError as error:
        assert str(file) in str(error)
