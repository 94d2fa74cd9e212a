"""The numbers that define a decoder-only transformer, and what follows from them: parameters and KV cache."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A Llama-shaped decoder: L layers of (RMSNorm, attention, RMSNorm, gated MLP), one final RMSNorm.

    Letters of the book: L = num_layers, D = d_model, F = d_ff, N = num_heads, K = num_kv_heads, H = head_dim,
    V = vocab_size. attention_bias adds a bias to q, k, v and o; mlp_bias to gate, up and down; qk_norm adds
    an RMSNorm of H weights to q and one to k in every layer. Raises ValueError for what is not a model.
    """

    num_layers: int
    d_model: int
    d_ff: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        for field in ("num_layers", "d_model", "d_ff", "num_heads", "num_kv_heads", "head_dim", "vocab_size"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{field}={value!r}: an integer of 1 or more is needed")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}")

    @property
    def num_parameters(self) -> int:
        """Every weight once; a tied output matrix is counted with the embedding."""
        return (
            self.num_layers * (self.attention_parameters + self.mlp_parameters + 2 * self.d_model)
            + self.embedding_parameters * (1 if self.tied_embeddings else 2)
            + self.d_model
        )

    @property
    def embedding_parameters(self) -> int:
        """table[V,D]; the output matrix has as many."""
        return self.vocab_size * self.d_model

    @property
    def attention_parameters(self) -> int:
        """q[D,N*H], k[D,K*H], v[D,K*H], o[N*H,D] of one layer, with its biases and q/k norms."""
        q_width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        weights = self.d_model * (2 * q_width + 2 * kv_width)
        biases = q_width + 2 * kv_width + self.d_model if self.attention_bias else 0
        return weights + biases + (2 * self.head_dim if self.qk_norm else 0)

    @property
    def mlp_parameters(self) -> int:
        """gate[D,F], up[D,F], down[F,D] of one layer, with biases where it has them."""
        return 3 * self.d_model * self.d_ff + (2 * self.d_ff + self.d_model if self.mlp_bias else 0)

    @property
    def matmul_parameters(self) -> int:
        """Weights that multiply every token: the layers' matrices and the output matrix, not the lookup."""
        q_width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        layer = self.d_model * (2 * q_width + 2 * kv_width) + 3 * self.d_model * self.d_ff
        return self.num_layers * layer + self.embedding_parameters

    def weight_bytes(self, dtype_bytes: int) -> int:
        """Bytes of all weights at `dtype_bytes` a weight."""
        return self.num_parameters * dtype_bytes

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """K and V of one token in every layer: 2 * L * K * H * dtype_bytes."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * dtype_bytes


def _shape(name: str, layers: int, d: int, f: int, heads: int, kv: int, v: int, **more: bool | int) -> Shape:
    head_dim = int(more.pop("head_dim", d // heads))
    flags = {flag: bool(value) for flag, value in more.items()}
    return Shape(layers, d, f, heads, kv, head_dim, v, name=name, **flags)


# From each model's config.json as published by its makers.
MODELS: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        _shape("smollm2-135m", 30, 576, 1536, 9, 3, 49152, tied_embeddings=True),
        _shape("llama-2-7b", 32, 4096, 11008, 32, 32, 32000),
        _shape("llama-2-70b", 80, 8192, 28672, 64, 8, 32000),
        _shape("llama-3-8b", 32, 4096, 14336, 32, 8, 128256),
        _shape("llama-3-70b", 80, 8192, 28672, 64, 8, 128256),
        _shape("llama-3-405b", 126, 16384, 53248, 128, 8, 128256),
        _shape("mistral-7b", 32, 4096, 14336, 32, 8, 32000),
        _shape("qwen3-0.6b", 28, 1024, 3072, 16, 8, 151936, tied_embeddings=True, qk_norm=True, head_dim=128),
        _shape("qwen3-8b", 36, 4096, 12288, 32, 8, 151936, qk_norm=True, head_dim=128),
    )
}
