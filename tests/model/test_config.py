"""config.json: what is read, what is refused, and that nothing else than our own error comes out of a wild one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab.layers.rope import LinearScaling, Llama3Scaling
from shardlab.model.config import ConfigError, ModelConfig, from_hugging_face, read_config

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
LLAMA = {"model_type": "llama", **SIZES}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read(**changes: Any) -> ModelConfig:
    return from_hugging_face(LLAMA | changes)


def test_what_a_file_leaves_out_has_its_default() -> None:
    config = read()
    assert (config.shape.num_kv_heads, config.shape.head_dim) == (4, 16)
    assert (config.rope_theta, config.rope_scaling, config.window, config.eos_ids) == (1e4, None, None, ())
    assert read(model_type="qwen3").shape.head_dim == 128
    assert read(model_type="qwen3").shape.qk_norm
    assert read(model_type="mistral").window == 4096


def test_the_window() -> None:
    assert read(model_type="mistral", sliding_window=None).window is None
    assert read(model_type="mistral", sliding_window=7).window == 7
    assert read(sliding_window=7).window is None  # Llama has none
    assert read(model_type="qwen3", sliding_window=7).window is None
    mixed = ["full_attention", "sliding_attention"]
    with pytest.raises(ConfigError, match="only some of the layers"):
        read(model_type="qwen3", sliding_window=7, use_sliding_window=True, layer_types=mixed)


def test_rope_at_the_top_and_nested() -> None:
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 8192)
    old = read(rope_theta=5e5, rope_scaling=LLAMA3)
    new = read(rope_parameters=LLAMA3 | {"rope_theta": 5e5})
    assert (old.rope_theta, old.rope_scaling) == (new.rope_theta, new.rope_scaling) == (5e5, scaling)
    assert read(rope_scaling={"type": "linear", "factor": 2.0}).rope_scaling == LinearScaling(2.0)
    assert read(rope_scaling=None).rope_scaling is None


def test_ends_of_text(tmp_path: Path) -> None:
    assert read(eos_token_id=2).eos_ids == (2,)
    assert read(eos_token_id=[2, 3]).eos_ids == (2, 3)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"eos_token_id": 2}))
    assert read_config(tmp_path).eos_ids == (2,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 9]}))
    assert read_config(tmp_path).eos_ids == (2, 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "mixtral"},
            r"'mixtral' is not supported; supported: llama \(LlamaForCausalLM\), mistral",
        ),
        ({"model_type": None}, "None is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu'.*silu"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: 0: an integer of 1"),
        ({"num_hidden_layers": True}, "num_hidden_layers: True"),
        ({"vocab_size": 1 << 62}, "vocab_size"),
        ({"hidden_size": "64"}, "hidden_size: '64'"),
        ({"num_key_value_heads": 3}, "num_kv_heads=3 does not divide num_heads=4"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"attention_bias": "yes"}, "attention_bias"),
        ({"eos_token_id": "end"}, "eos_token_id"),
        (
            {"rope_scaling": {"rope_type": "yarn"}},
            "'yarn' is not supported; supported: default, linear, llama3",
        ),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "low_freq_factor"),
        ({"rope_scaling": [1]}, "rope_parameters"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_run_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(**changes)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"llama"', "\x00", "[" * 100_000])
def test_a_file_that_is_no_config(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="config.json"):
        read_config(tmp_path)


def test_a_missing_or_enormous_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="config.json: not found"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(" " * (2 << 20))
    with pytest.raises(ConfigError, match="larger than"):
        read_config(tmp_path)


KEYS = [*LLAMA, "head_dim", "rope_scaling", "rope_parameters", "rope_theta", "eos_token_id", "sliding_window"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["llama3"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, *LLAMA3]), inner),
    max_leaves=6,
)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    model_type=st.sampled_from(["llama", "mistral", "qwen3"]),
    changes=st.dictionaries(st.sampled_from([key for key in KEYS if key != "model_type"]), ANYTHING),
)
def test_a_wild_config_gives_a_config_or_our_error(model_type: str, changes: dict[str, Any]) -> None:
    started = time.perf_counter()
    try:
        assert read(model_type=model_type, **changes).shape.num_layers >= 1
    except ConfigError:
        pass
    assert time.perf_counter() - started < 3
