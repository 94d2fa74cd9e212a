"""The numbers that define a decoder-only transformer, and what follows from them: parameters and KV cache."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from shardlab.theory.variants import Experts, Latent, check_counts


@dataclass(frozen=True)
class Shape:
    """A Llama-shaped decoder: L layers of (RMSNorm, attention, RMSNorm, gated MLP), one final RMSNorm.

    Letters of the book: L = num_layers, D = d_model, F = d_ff, N = num_heads, K = num_kv_heads, H = head_dim,
    V = vocab_size. attention_bias adds a bias to q, k, v and o (with mla: to both compressions and o); qkv_bias to
    q, k and v only; mlp_bias to gate, up and down of every MLP that is not a routed expert; qk_norm adds an RMSNorm
    of H weights to q and one to k in every layer. moe puts experts in place of MLPs, mla latent attention in place
    of q, k and v: num_kv_heads is then num_heads, and head_dim is nope_dim + rope_dim.
    Raises ValueError for what is not a model.
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
    moe: Experts | None = None
    mla: Latent | None = None
    qkv_bias: bool = False

    def __post_init__(self) -> None:
        sizes = ("num_layers", "d_model", "d_ff", "num_heads", "num_kv_heads", "head_dim", "vocab_size")
        check_counts(self, "", 1, *sizes)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}")
        if self.attention_bias and self.qkv_bias:
            raise ValueError("qkv_bias=True: attention_bias=True already has q, k and v; choose one")
        if self.moe and self.moe.num_dense_layers >= self.num_layers:
            raise ValueError(
                f"moe.num_dense_layers={self.moe.num_dense_layers} leaves no layer for the experts; "
                f"allowed: 0..{self.num_layers - 1} (num_layers={self.num_layers})"
            )
        if self.mla:
            self._check_latent(self.mla)

    def _check_latent(self, mla: Latent) -> None:
        if self.head_dim != mla.head_dim:
            raise ValueError(f"head_dim={self.head_dim}: with mla it is nope_dim + rope_dim = {mla.head_dim}")
        if self.num_kv_heads != self.num_heads:
            raise ValueError(f"num_kv_heads={self.num_kv_heads}: with mla it is num_heads={self.num_heads}")
        if self.qk_norm or self.qkv_bias:
            raise ValueError("qk_norm and qkv_bias are not known for mla; allowed: False")

    @property
    def num_moe_layers(self) -> int:
        """Layers with experts: 0, or all but the first num_dense_layers."""
        return self.num_layers - self.moe.num_dense_layers if self.moe else 0

    @property
    def num_parameters(self) -> int:
        """Every weight once; a tied output matrix is counted with the embedding."""
        return self._parameters(self.moe.num_experts if self.moe else 0)

    @property
    def active_parameters(self) -> int:
        """Weights that one token meets: all of them but the experts that the router did not choose.

        The lookup table counts whole. Some makers leave it out: DeepSeek-V3's 36.6 billion are without it.
        """
        return self._parameters(self.moe.experts_per_token if self.moe else 0)

    def _parameters(self, routed_experts: int) -> int:
        layers = self.num_layers * (self.attention_parameters + 2 * self.d_model)
        layers += (self.num_layers - self.num_moe_layers) * self.mlp_parameters
        layers += self.num_moe_layers * (
            self.router_parameters + self.shared_parameters + routed_experts * self.expert_parameters
        )
        return layers + self.embedding_parameters * (1 if self.tied_embeddings else 2) + self.d_model

    @property
    def embedding_parameters(self) -> int:
        """table[V,D]; the output matrix has as many."""
        return self.vocab_size * self.d_model

    @property
    def attention_matrices(self) -> int:
        """q[D,N*H], k[D,K*H], v[D,K*H], o[N*H,D] of one layer, or the five of `Latent`; without biases and norms."""
        return self.attention_matrices_of(self.num_heads, self.num_kv_heads)

    def attention_matrices_of(self, num_heads: int, num_kv_heads: int) -> int:
        """The same for some of the heads; latent attention's compressions come whole with any number of them."""
        if self.mla is None:
            return self.d_model * self.head_dim * (2 * num_heads + 2 * num_kv_heads)
        mla, q_width = self.mla, num_heads * self.head_dim
        q = self.d_model * q_width if mla.q_rank is None else mla.q_rank * (self.d_model + q_width)
        kv = self.d_model * mla.cached_dim + mla.kv_rank * num_heads * (mla.nope_dim + mla.v_dim)
        return q + kv + num_heads * mla.v_dim * self.d_model

    @property
    def attention_parameters(self) -> int:
        """attention_matrices, and the biases and norms of q, k, v and o or of the compressions."""
        if self.mla:
            compressed = (self.mla.q_rank or 0) + self.mla.kv_rank  # each has a norm
            biases = compressed + self.mla.rope_dim + self.d_model if self.attention_bias else 0
            return self.attention_matrices + compressed + biases
        biases = 0
        if self.attention_bias or self.qkv_bias:
            biases += self.head_dim * (self.num_heads + 2 * self.num_kv_heads)
        if self.attention_bias:
            biases += self.d_model
        return self.attention_matrices + biases + (2 * self.head_dim if self.qk_norm else 0)

    @property
    def mlp_parameters(self) -> int:
        """gate[D,F], up[D,F], down[F,D] of one layer without experts, with biases where it has them."""
        return self._mlp(self.d_ff)

    @property
    def expert_parameters(self) -> int:
        """gate, up and down of one routed expert; 0 without experts."""
        return 3 * self.d_model * self.moe.d_ff if self.moe else 0

    @property
    def shared_parameters(self) -> int:
        """The shared experts of one layer: together one MLP of num_shared * d_ff columns."""
        return self._mlp(self.moe.num_shared * self.moe.d_ff) if self.moe and self.moe.num_shared else 0

    @property
    def router_parameters(self) -> int:
        """router[D,E] of one layer. A bias that only balances the load (DeepSeek-V3) is no weight and not counted."""
        return self.d_model * self.moe.num_experts if self.moe else 0

    def _mlp(self, width: int) -> int:
        return 3 * self.d_model * width + (2 * width + self.d_model if self.mlp_bias else 0)

    @property
    def matmul_parameters(self) -> int:
        """Weights that multiply every token: the layers' matrices and the output matrix, not the lookup.

        Of the routed experts, the k that a token goes to.
        """
        total = self.num_layers * self.attention_matrices + self.embedding_parameters
        total += (self.num_layers - self.num_moe_layers) * 3 * self.d_model * self.d_ff
        if self.moe:
            experts = (self.moe.experts_per_token + self.moe.num_shared) * self.expert_parameters
            total += self.num_moe_layers * (self.router_parameters + experts)
        return total

    @property
    def matrix_parameters(self) -> int:
        """The layers' matrices, every expert's included: what a quantised model stores in fewer bits.

        Not the router, the norms and biases, nor the two embeddings: those stay as they are.
        """
        total = self.num_layers * self.attention_matrices
        total += (self.num_layers - self.num_moe_layers) * 3 * self.d_model * self.d_ff
        if self.moe:
            total += self.num_moe_layers * (self.moe.num_experts + self.moe.num_shared) * self.expert_parameters
        return total

    def weight_bytes(self, dtype_bytes: int) -> int:
        """Bytes of all weights at `dtype_bytes` a weight."""
        return self.num_parameters * dtype_bytes

    @property
    def kv_numbers_per_layer(self) -> int:
        """Numbers that the cache keeps of one token in one layer: 2 * K * H, or kv_rank + rope_dim with mla."""
        return self.mla.cached_dim if self.mla else 2 * self.num_kv_heads * self.head_dim

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """The KV cache of one token in every layer: L * kv_numbers_per_layer * dtype_bytes."""
        return self.num_layers * self.kv_numbers_per_layer * dtype_bytes


def _registry() -> dict[str, Shape]:
    """models.toml: name -> Shape. A row's source is for the reader."""
    rows = tomllib.loads(files("shardlab.theory").joinpath("models.toml").read_text(encoding="utf-8"))
    return {name: _shape(name, row) for name, row in rows.items()}


def _shape(name: str, row: dict[str, Any]) -> Shape:
    values = {key: value for key, value in row.items() if key not in ("source", "primary")}
    moe, mla = values.pop("moe", None), values.pop("mla", None)
    latent = Latent(**{"q_rank": None, **mla}) if mla else None
    values.setdefault("head_dim", latent.head_dim if latent else values["d_model"] // values["num_heads"])
    return Shape(name=name, moe=Experts(**moe) if moe else None, mla=latent, **values)


MODELS: dict[str, Shape] = _registry()
