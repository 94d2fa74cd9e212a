"""What a model is, read from a Hugging Face config.json: sizes, rotary embedding, the end of a text.

Nothing here reads weights, so a caller learns whether a model and a degree fit before any process starts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardlab.layers.rope import LinearScaling, Llama3Scaling, Scaling
from shardlab.theory.transformer import Shape

SUPPORTED = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen3": "Qwen3ForCausalLM"}
MAX_CONFIG_BYTES = 1 << 20


class ConfigError(ValueError):
    """A model that cannot be run here, or a description that makes no sense. Names the file and the key."""


@dataclass(frozen=True)
class ModelConfig:
    """A Shape, and what the forward needs besides: norm epsilon, rotary embedding, window, ends of text."""

    shape: Shape
    norm_eps: float = 1e-5
    rope_theta: float = 1e4
    rope_scaling: Scaling | None = None
    window: int | None = None
    max_positions: int = 1 << 30
    eos_ids: tuple[int, ...] = ()


def read_config(folder: Path) -> ModelConfig:
    """folder/config.json -> ModelConfig. Raises ConfigError for a missing or odd file, or an unknown
    architecture.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"{path}: not found; a model folder holds config.json and safetensors files")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes: not a model's config")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a JSON object is needed")
    return from_hugging_face(values, str(path))


def from_hugging_face(values: dict[str, Any], source: str = "config") -> ModelConfig:
    """The dict of a config.json -> ModelConfig. Raises ConfigError naming `source` and the key."""
    get = _Reader(values, source)
    model_type = values.get("model_type")
    if model_type not in SUPPORTED:
        known = ", ".join(f"{key} ({name})" for key, name in SUPPORTED.items())
        raise get.error("model_type", f"{model_type!r} is not supported; supported: {known}")
    if values.get("quantization_config"):
        raise get.error(
            "quantization_config", "quantized safetensors are not supported; use the unquantized model"
        )
    if values.get("hidden_act", "silu") != "silu":
        raise get.error("hidden_act", f"{values['hidden_act']!r} is not supported; supported: silu")
    num_heads = get.count("num_attention_heads")
    d_model = get.count("hidden_size")
    # A key that the file leaves out has its architecture's default, as in transformers.
    head_dim = get.count("head_dim", 128 if model_type == "qwen3" else d_model // num_heads)
    try:
        shape = Shape(
            num_layers=get.count("num_hidden_layers"),
            d_model=d_model,
            d_ff=get.count("intermediate_size"),
            num_heads=num_heads,
            num_kv_heads=get.count("num_key_value_heads", num_heads),
            head_dim=head_dim,
            vocab_size=get.count("vocab_size"),
            tied_embeddings=get.flag("tie_word_embeddings"),
            attention_bias=get.flag("attention_bias") and model_type != "mistral",
            mlp_bias=get.flag("mlp_bias") and model_type == "llama",
            qk_norm=model_type == "qwen3",
            name=str(values.get("_name_or_path") or model_type),
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None
    theta, scaling = _rope(values, get)
    eos = values.get("eos_token_id")
    return ModelConfig(
        shape=shape,
        norm_eps=get.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        window=_window(values, get, model_type),
        max_positions=get.count("max_position_embeddings", 1 << 30),
        eos_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (int(eos),),
    )


def _rope(values: dict[str, Any], get: _Reader) -> tuple[float, Scaling | None]:
    """rope_theta and rope_scaling, at the top level (transformers 4) or in rope_parameters (transformers
    5).
    """
    nested = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(nested, dict):
        raise get.error("rope_parameters", "a JSON object is needed")
    rope = _Reader({**values, **nested}, get.source)
    if rope.number("partial_rotary_factor", 1.0) != 1.0:
        raise rope.error("partial_rotary_factor", "only 1.0 is supported")
    kind = nested.get("rope_type", nested.get("type", "default"))
    theta = rope.number("rope_theta", 1e4)
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, LinearScaling(rope.number("factor"))
    if kind == "llama3":
        return theta, Llama3Scaling(
            rope.number("factor"),
            rope.number("low_freq_factor"),
            rope.number("high_freq_factor"),
            rope.count("original_max_position_embeddings"),
        )
    raise rope.error("rope_type", f"{kind!r} is not supported; supported: default, linear, llama3")


def _window(values: dict[str, Any], get: _Reader, model_type: str) -> int | None:
    """The sliding window of all layers, or none. Llama has none whatever the config says."""
    default = 4096 if model_type == "mistral" else None
    if model_type == "llama" or values.get("sliding_window", default) is None:
        return None
    if model_type == "qwen3" and not values.get("use_sliding_window", False):
        return None
    kinds = values.get("layer_types")
    if model_type == "qwen3" and (kinds is None or len(set(kinds)) > 1):
        raise get.error("use_sliding_window", "a window in only some of the layers is not supported")
    return get.count("sliding_window", default)


class _Reader:
    """Typed look-ups that name the file and the key when they fail."""

    def __init__(self, values: dict[str, Any], source: str) -> None:
        self.values, self.source = values, source

    def error(self, key: str, what: str) -> ConfigError:
        return ConfigError(f"{self.source}: {key}: {what}")

    def count(self, key: str, default: int | None = None) -> int:
        """A positive integer. A key that is absent or null takes the default."""
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(key, f"{value!r}: an integer of 1 or more is needed")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.error(key, f"{value!r}: a positive number is needed")
        return float(value)

    def flag(self, key: str) -> bool:
        """true or false; absent is false."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, f"{value!r}: true or false is needed")
        return value
