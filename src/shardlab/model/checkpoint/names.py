"""One tensor, three names: ours, Hugging Face's, and llama.cpp's (GGUF)."""

from __future__ import annotations

# ours -> (Hugging Face, GGUF); `{i}` is the layer
_TOP = {
    "embedding": ("model.embed_tokens", "token_embd"),
    "norm": ("model.norm", "output_norm"),
    "logits": ("lm_head", "output"),
}
_IN_LAYER = {
    "attention_norm": ("input_layernorm", "attn_norm"),
    "attention.q": ("self_attn.q_proj", "attn_q"),
    "attention.k": ("self_attn.k_proj", "attn_k"),
    "attention.v": ("self_attn.v_proj", "attn_v"),
    "attention.o": ("self_attn.o_proj", "attn_output"),
    "attention.q_norm": ("self_attn.q_norm", "attn_q_norm"),
    "attention.k_norm": ("self_attn.k_norm", "attn_k_norm"),
    "mlp_norm": ("post_attention_layernorm", "ffn_norm"),
    "mlp.gate": ("mlp.gate_proj", "ffn_gate"),
    "mlp.up": ("mlp.up_proj", "ffn_up"),
    "mlp.down": ("mlp.down_proj", "ffn_down"),
}


def hugging_face(name: str) -> str:
    """layers.3.attention.q.weight -> model.layers.3.self_attn.q_proj.weight."""
    layer, module, kind = _parse(name)
    return f"{_TOP[module][0]}.{kind}" if layer is None else f"model.layers.{layer}.{_IN_LAYER[module][0]}.{kind}"


def gguf(name: str) -> str:
    """layers.3.attention.q.weight -> blk.3.attn_q.weight."""
    layer, module, kind = _parse(name)
    return f"{_TOP[module][1]}.{kind}" if layer is None else f"blk.{layer}.{_IN_LAYER[module][1]}.{kind}"


def _parse(name: str) -> tuple[str | None, str, str]:
    """-> layer number or None, module, weight or bias."""
    module, kind = name.rsplit(".", 1)
    if not module.startswith("layers."):
        return None, module, kind
    _, layer, module = module.split(".", 2)
    return layer, module, kind
