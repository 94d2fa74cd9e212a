"""How many bits a weight and a cached number take, scales included, and what a quantised model leaves alone."""

from __future__ import annotations

from dataclasses import dataclass

from shardlab.theory.transformer import Shape


@dataclass(frozen=True)
class Precision:
    """How a model's weights are stored.

    The layers' matrices (attention, MLP, experts) take `bits` each and one scale of `scale_bits` a group of `group`
    weights along a row; None: no scales, or so few that they do not count (one a tensor or a row). Everything else is
    kept at kept_bits: both embeddings, norms, biases and the router. Published recipes do so: "targets: [Linear],
    ignore: [lm_head]", 4 bits, symmetric, groups of 128 (huggingface.co/danieldk/Llama-3.1-8B-w4a16-int-24,
    recipe.yaml; an embedding is no Linear). That the router is kept too is this book's rule: it is small.
    arithmetic names the tensor-core rate of the matrices: weights alone in int4 are multiplied in bf16.
    """

    name: str
    bits: int
    kept_bits: int
    group: int | None = None
    scale_bits: int = 16
    arithmetic: str = "bf16"

    @property
    def bits_per_weight(self) -> float:
        """Bits of one quantised weight with its share of the group's scale."""
        return self.bits + (self.scale_bits / self.group if self.group else 0)

    @property
    def activation_bytes(self) -> int:
        """Bytes of one activation between layers: what an all_reduce of hidden states carries."""
        return self.kept_bits // 8

    def matrix_bytes(self, num_weights: float) -> float:
        """Bytes of weights that are quantised."""
        return num_weights * self.bits_per_weight / 8

    def kept_bytes(self, num_weights: float) -> float:
        """Bytes of weights that are not."""
        return num_weights * self.kept_bits / 8


@dataclass(frozen=True)
class KVPrecision:
    """How the KV cache is stored: bytes a number, and bytes of scale a token, KV head, and K or V.

    int8 keeps one fp32 scale for each vector of H numbers (vLLM: --kv-cache-dtype int8_per_token_head); fp8 one for a
    whole tensor, which does not count. Latent attention has one vector a token and layer.
    """

    name: str
    number_bytes: int
    scale_bytes: int = 0

    def layer_bytes(self, shape: Shape, num_kv_heads: int) -> int:
        """Bytes that one token adds to one layer's cache on a rank with this many KV heads (with mla: any number)."""
        if shape.mla:
            return shape.mla.cached_dim * self.number_bytes + self.scale_bytes
        return 2 * num_kv_heads * (shape.head_dim * self.number_bytes + self.scale_bytes)


PRECISIONS: dict[str, Precision] = {
    one.name: one
    for one in (
        Precision("fp32", 32, 32, arithmetic="fp32"),
        Precision("bf16", 16, 16),
        Precision("fp16", 16, 16),
        Precision("fp8", 8, 16, arithmetic="fp8"),
        Precision("int4", 4, 16, group=128),
        Precision("int4-g32", 4, 16, group=32),
    )
}

KV_PRECISIONS: dict[str, KVPrecision] = {
    one.name: one
    for one in (KVPrecision("fp32", 4), KVPrecision("bf16", 2), KVPrecision("fp8", 1), KVPrecision("int8", 1, 4))
}


def precision(name: str) -> Precision:
    """A weight precision by name. Raises ValueError naming those there are."""
    if name not in PRECISIONS:
        raise ValueError(f"precision={name!r}; allowed: {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def kv_precision(name: str) -> KVPrecision:
    """A KV-cache precision by name. Raises ValueError naming those there are."""
    if name not in KV_PRECISIONS:
        raise ValueError(f"kv_precision={name!r}; allowed: {', '.join(KV_PRECISIONS)}")
    return KV_PRECISIONS[name]


def weight_bytes(shape: Shape, stored: Precision) -> float:
    """Bytes of a whole model's weights: its matrices quantised, the rest kept.

    Llama 3 70B in int4: 35.3 GB if every weight took 4 bits and no more, 36.4 GB with the scales of groups of 128
    (matrix_bytes of all weights), and 39.5 GB with both embeddings in bf16, as they are.
    """
    return stored.matrix_bytes(shape.matrix_parameters) + stored.kept_bytes(
        shape.num_parameters - shape.matrix_parameters
    )
