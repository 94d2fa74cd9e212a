"""What a model is, read from a Hugging Face config.json: sizes, rotary embedding, the end of a text.

Nothing here reads weights, so a caller learns whether a model and a degree fit before any process starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardlab.layers.rope import LinearScaling, Llama3Scaling, Scaling
from shardlab.theory.hugging_face import ConfigError as ConfigError
from shardlab.theory.hugging_face import Fields as Fields
from shardlab.theory.hugging_face import read_json, shape_from_config
from shardlab.theory.transformer import Shape

SUPPORTED = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen3": "Qwen3ForCausalLM"}
MAX_POSITIONS = 1 << 30


@dataclass(frozen=True)
class ModelConfig:
    """A Shape, and what the forward needs besides: norm epsilon, rotary embedding, window, ends of text."""

    shape: Shape
    norm_eps: float = 1e-5
    rope_theta: float = 1e4
    rope_scaling: Scaling | None = None
    window: int | None = None
    max_positions: int = MAX_POSITIONS
    eos_ids: tuple[int, ...] = ()


def read_config(folder: Path) -> ModelConfig:
    """folder/config.json -> ModelConfig. Raises ConfigError for a missing or odd file, or an unknown architecture."""
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"{path}: not found; a model folder holds config.json and safetensors files")
    values = read_json(path)
    generation = folder / "generation_config.json"  # chat models list all their ends of text there
    if generation.is_file():
        values["eos_token_id"] = read_json(generation).get("eos_token_id") or values.get("eos_token_id")
    return from_hugging_face(values, str(path))


def from_hugging_face(values: dict[str, Any], source: str = "config") -> ModelConfig:
    """The dict of a config.json -> ModelConfig. Raises ConfigError naming `source` and the key."""
    get = Fields(values, source)
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in SUPPORTED:
        known = ", ".join(f"{key} ({name})" for key, name in SUPPORTED.items())
        raise get.error("model_type", f"{model_type!r} is not supported; supported: {known}")
    if values.get("quantization_config"):
        raise get.error("quantization_config", "quantized safetensors are not supported; use the unquantized model")
    if values.get("hidden_act", "silu") != "silu":
        raise get.error("hidden_act", f"{values['hidden_act']!r} is not supported; supported: silu")
    shape = shape_from_config(values, source)
    theta, scaling = _rope(values, get)
    return ModelConfig(
        shape=shape,
        norm_eps=get.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        window=_window(values, get, model_type),
        max_positions=get.count("max_position_embeddings", MAX_POSITIONS, most=MAX_POSITIONS),
        eos_ids=_eos(values, get),
    )


def _eos(values: dict[str, Any], get: Fields) -> tuple[int, ...]:
    """One id, several, or none."""
    eos = values.get("eos_token_id")
    ids = () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,)
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise get.error("eos_token_id", f"{eos!r}: an integer or a list of integers is needed")
    return ids


def _rope(values: dict[str, Any], get: Fields) -> tuple[float, Scaling | None]:
    """rope_theta and rope_scaling, at the top level (transformers 4) or in rope_parameters (transformers 5)."""
    nested = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(nested, dict):
        raise get.error("rope_parameters", "a JSON object is needed")
    rope = Fields({**values, **nested}, get.source)
    if rope.number("partial_rotary_factor", 1.0) != 1.0:
        raise rope.error("partial_rotary_factor", "only 1.0 is supported")
    kind = nested.get("rope_type", nested.get("type", "default"))
    theta = rope.number("rope_theta", 1e4)
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, LinearScaling(rope.number("factor"))
    if kind == "llama3":
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        if low >= high:
            raise rope.error("low_freq_factor", f"{low} is not below high_freq_factor={high}")
        positions = rope.count("original_max_position_embeddings", most=MAX_POSITIONS)
        return theta, Llama3Scaling(rope.number("factor"), low, high, positions)
    raise rope.error("rope_type", f"{kind!r} is not supported; supported: default, linear, llama3")


def _window(values: dict[str, Any], get: Fields, model_type: str) -> int | None:
    """The sliding window of all layers, or none. Llama has none whatever the config says."""
    default = 4096 if model_type == "mistral" else None
    if model_type == "llama" or values.get("sliding_window", default) is None:
        return None
    if model_type == "qwen3" and not values.get("use_sliding_window", False):
        return None
    kinds = values.get("layer_types")
    if model_type == "qwen3" and (not isinstance(kinds, list) or any(kind != kinds[0] for kind in kinds)):
        raise get.error("use_sliding_window", "a window in only some of the layers is not supported")
    return get.count("sliding_window", default)
