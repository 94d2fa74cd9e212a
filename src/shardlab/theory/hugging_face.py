"""A Hugging Face config.json -> Shape. Standard library only; nothing here reads weights or the network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardlab.theory.transformer import Experts, Latent, Shape

MAX_CONFIG_BYTES = 1 << 20
# Whose weights are known tensor by tensor, and checked against transformers in tests/theory/test_hugging_face.py.
KNOWN = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3")
# A type that is not known is taken for a Llama where nothing in its config speaks against it.
NOT_LLAMA = ("expert", "lora_rank", "text_config", "vision_config", "audio_config", "ssm", "mamba", "conv", "linear_")
DEEPSEEK = ("deepseek_v2", "deepseek_v3")


class ConfigError(ValueError):
    """A model that cannot be run here, or a description that makes no sense. Names the file and the key."""


class Fields:
    """Typed look-ups in somebody's description of a model, which name the file and the key when they fail."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values, self.source = values, source

    def error(self, key: str, what: str) -> ConfigError:
        return ConfigError(f"{self.source}: {key}: {what}")

    def count(self, key: str, default: int | None = None, most: int = 1 << 20, least: int = 1) -> int:
        """An integer of least..most. A key that is absent or null takes the default."""
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.error(key, f"{value!r}: an integer of {least}..{most} is needed")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.error(key, f"{value!r}: a positive number is needed")
        return float(value)

    def flag(self, key: str) -> bool:
        """true or false; absent is false."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, f"{value!r}: true or false is needed")
        return value


def read_shape(path: str | Path) -> Shape:
    """A config.json, or the folder that it is in -> Shape. Raises ConfigError naming the file and the key."""
    file = Path(path).expanduser()
    try:
        file = file / "config.json" if file.is_dir() else file
        if not file.is_file():
            raise ConfigError(f"{file}: not found; allowed: a config.json, or a folder with one")
        return shape_from_config(read_json(file), str(file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A file of one JSON object, at most MAX_CONFIG_BYTES long. Raises ConfigError for anything else."""
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes: not a model's config")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a JSON object is needed")
    return values


def shape_from_config(values: Mapping[str, Any], source: str = "config") -> Shape:
    """The dict of a config.json -> Shape. A key that the file leaves out has its architecture's default.

    How the weights are stored (quantization_config) is not part of a shape, nor are layers for predicting several
    tokens (num_nextn_predict_layers). A model_type that is not in KNOWN is read as a Llama if it has Llama's keys
    (num_key_value_heads, rms_norm_eps, tie_word_embeddings, hidden_act "silu") and none that name another design.
    Raises ConfigError, naming `source`, the key, its value and what is allowed.
    """
    get = Fields(values, source)
    model_type = _model_type(values, get)
    d_model, num_heads = get.count("hidden_size"), get.count("num_attention_heads")
    num_layers = get.count("num_hidden_layers")
    latent = _latent(values, get) if model_type in DEEPSEEK else None
    default_head_dim = 128 if model_type == "qwen3" else d_model // num_heads
    attention_bias, mlp_bias = get.flag("attention_bias"), get.flag("mlp_bias")
    try:
        return Shape(
            num_layers=num_layers,
            d_model=d_model,
            d_ff=get.count("intermediate_size"),
            num_heads=num_heads,
            num_kv_heads=get.count("num_key_value_heads", num_heads),
            head_dim=latent.head_dim if latent else get.count("head_dim", default_head_dim),
            vocab_size=get.count("vocab_size"),
            tied_embeddings=get.flag("tie_word_embeddings"),
            attention_bias=attention_bias and model_type not in ("mistral", "mixtral", "qwen2"),
            mlp_bias=mlp_bias and model_type in ("llama", "deepseek_v2"),
            qk_norm=model_type in ("qwen3", "qwen3_moe"),
            name=str(values.get("_name_or_path") or model_type),
            moe=_experts(values, get, model_type, num_layers),
            mla=latent,
            qkv_bias=model_type == "qwen2",
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None


def _model_type(values: Mapping[str, Any], get: Fields) -> str:
    """The model_type whose rules hold: one of KNOWN. Another one that looks like a Llama is "llama"."""
    model_type = values.get("model_type")
    if isinstance(model_type, str) and model_type in KNOWN:
        return model_type
    known = ", ".join(KNOWN)
    if not isinstance(model_type, str):
        raise get.error("model_type", f"{model_type!r}; allowed: {known}, or another one built like Llama")
    unlike = [str(key) for key in values if any(part in str(key) for part in NOT_LLAMA)]
    unlike += [key for key in ("num_key_value_heads", "rms_norm_eps", "tie_word_embeddings") if values.get(key) is None]
    if values.get("hidden_act") != "silu":
        unlike.append("hidden_act")
    if unlike:
        raise get.error(
            "model_type",
            f"{model_type!r} is not known, and {', '.join(sorted(unlike))} are not as in a Llama; allowed: {known}",
        )
    return "llama"


def _latent(values: Mapping[str, Any], get: Fields) -> Latent:
    if "q_lora_rank" not in values:
        raise get.error("q_lora_rank", "missing; allowed: an integer, or null for queries without compression")
    return Latent(
        q_rank=None if values["q_lora_rank"] is None else get.count("q_lora_rank"),
        kv_rank=get.count("kv_lora_rank"),
        rope_dim=get.count("qk_rope_head_dim"),
        nope_dim=get.count("qk_nope_head_dim"),
        v_dim=get.count("v_head_dim"),
    )


def _experts(values: Mapping[str, Any], get: Fields, model_type: str, num_layers: int) -> Experts | None:
    """The experts of the families that have some; None for the others, and where every layer is a dense one."""
    if model_type == "mixtral":
        num_experts, top = get.count("num_local_experts"), get.count("num_experts_per_tok")
        return _checked_experts(get, num_experts, top, get.count("intermediate_size"), 0, 0)
    if model_type == "qwen3_moe":
        dense = _first_layers(values, get, num_layers)
        if get.count("decoder_sparse_step", 1) != 1:
            raise get.error("decoder_sparse_step", f"{values['decoder_sparse_step']}; allowed: 1 (experts everywhere)")
        num_experts = get.count("num_local_experts" if values.get("num_experts") is None else "num_experts")
        shared = 0
    elif model_type in DEEPSEEK:
        if get.count("moe_layer_freq", 1) != 1:
            raise get.error("moe_layer_freq", f"{values['moe_layer_freq']}; allowed: 1 (experts in every layer)")
        dense = get.count("first_k_dense_replace", 3 if model_type == "deepseek_v3" else 0, least=0)
        num_experts = get.count("n_routed_experts")
        shared = get.count("n_shared_experts", 0, least=0)
    else:
        return None
    if dense >= num_layers:
        return None
    top, width = get.count("num_experts_per_tok"), get.count("moe_intermediate_size")
    return _checked_experts(get, num_experts, top, width, shared, dense)


def _checked_experts(get: Fields, num_experts: int, top: int, width: int, shared: int, dense: int) -> Experts:
    if top > num_experts:
        raise get.error("num_experts_per_tok", f"{top}; allowed: 1..{num_experts}, the number of experts")
    return Experts(num_experts, top, width, shared, dense)


def _first_layers(values: Mapping[str, Any], get: Fields, num_layers: int) -> int:
    """mlp_only_layers: how many of the first layers have no experts. ConfigError where they are not the first."""
    listed = values.get("mlp_only_layers")
    listed = [] if listed is None else listed
    if not isinstance(listed, list) or not all(type(one) is int for one in listed):
        raise get.error("mlp_only_layers", f"{listed!r}; allowed: a list of layer numbers")
    within = {one for one in listed if 0 <= one < num_layers}
    if within != set(range(len(within))):
        raise get.error("mlp_only_layers", f"{listed!r}; allowed: the first layers, as in [0, 1, 2], or none")
    return len(within)
