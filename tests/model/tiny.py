"""Tiny random models of each kind, and what transformers says of them: the reference of the parity tests.

Sizes are chosen so that 2, 3 and 4 ranks rarely divide them: vocabulary 1003, F = 203, 9 or 6 heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_SIZES = {
    "vocab_size": 1003,
    "intermediate_size": 203,
    "num_hidden_layers": 3,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def _case(kind: str, heads: int, kv_heads: int, head_dim: int, **more: Any) -> tuple[str, dict[str, Any]]:
    sizes = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim}
    return kind, {**_SIZES, "hidden_size": heads * head_dim, **sizes, **more}


CASES = {
    "llama-mha": _case("Llama", 6, 6, 16, tie_word_embeddings=False),
    "llama-mha-bias": _case("Llama", 6, 6, 16, attention_bias=True, mlp_bias=True),
    "llama-gqa": _case("Llama", 9, 3, 8, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE),
    "llama-gqa-bias": _case("Llama", 9, 3, 8, attention_bias=True),
    "llama-linear": _case("Llama", 4, 2, 8, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}),
    "llama-mqa": _case("Llama", 6, 1, 16, tie_word_embeddings=True),
    "mistral-window": _case("Mistral", 6, 2, 16, sliding_window=7),
    "qwen3": _case("Qwen3", 6, 3, 24, hidden_size=96, tie_word_embeddings=True),
    "qwen3-bias": _case("Qwen3", 4, 2, 24, hidden_size=64, attention_bias=True, tie_word_embeddings=False),
}


@dataclass(frozen=True)
class Reference:
    """token_ids[B,S], transformers' logits[B,S,V], and its greedy tokens [B,n]."""

    folder: Path
    token_ids: torch.Tensor
    logits: torch.Tensor
    greedy: torch.Tensor


def build(
    case: tuple[str, dict[str, Any]],
    folder: Path,
    *,
    batch: int = 2,
    prompt: int = 21,
    new_tokens: int = 32,
    **save: Any,
) -> Reference:
    """Make the model from a seed, save it, and run transformers on `batch` sequences of `prompt` tokens."""
    import transformers

    kind, sizes = case
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes, attn_implementation="eager")
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms are made as ones and biases as zeros, which would hide mistakes
                parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
            else:  # larger queries and keys: attention that looks somewhere, text that does not repeat
                gain = 1.5 if "q_proj" in name or "k_proj" in name else 1.0
                parameter.normal_(0.0, gain * parameter.shape[1] ** -0.5)
        token_ids = torch.randint(0, sizes["vocab_size"], (batch, prompt))
        logits = model(token_ids).logits
        greedy = model.generate(token_ids, max_new_tokens=new_tokens, do_sample=False)[:, token_ids.shape[1] :]
    model.save_pretrained(folder, **save)
    return Reference(folder, token_ids, logits, greedy)
