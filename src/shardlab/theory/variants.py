"""What may stand in place of a layer's MLP or of its K and V heads: a mixture of experts, and latent attention."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: in place of one MLP, a router[D,E] that sends each token to k of E smaller ones.

    E = num_experts, k = experts_per_token; d_ff is the width of one expert (gate, up, down, without biases).
    num_shared experts of the same width see every token. The first num_dense_layers layers keep a plain MLP of
    Shape.d_ff. Shazeer et al. 2017, arXiv 1701.06538; shared experts: Dai et al. 2024, arXiv 2401.06066.
    Raises ValueError for what is not a mixture.
    """

    num_experts: int
    experts_per_token: int
    d_ff: int
    num_shared: int = 0
    num_dense_layers: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "moe.", 1, "num_experts", "experts_per_token", "d_ff")
        check_counts(self, "moe.", 0, "num_shared", "num_dense_layers")
        if self.experts_per_token > self.num_experts:
            raise ValueError(
                f"moe.experts_per_token={self.experts_per_token}: allowed: 1..{self.num_experts} (moe.num_experts)"
            )


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (MLA): K and V of all heads are made from one small vector a token.

    q: D -> q_rank -> N*(nope+rope), or D -> N*(nope+rope) where q_rank is None. kv: D -> kv_rank+rope_dim, and
    kv_rank -> N*(nope+v). o: N*v -> D. An RMSNorm follows each compression. The cache keeps the kv_rank+rope_dim
    numbers, which all heads share. DeepSeek-AI 2024 (DeepSeek-V2), arXiv 2405.04434, section 2.1.
    Raises ValueError for a size below 1.
    """

    q_rank: int | None
    kv_rank: int
    rope_dim: int
    nope_dim: int
    v_dim: int

    def __post_init__(self) -> None:
        check_counts(self, "mla.", 1, "kv_rank", "rope_dim", "nope_dim", "v_dim")
        if self.q_rank is not None:
            check_counts(self, "mla.", 1, "q_rank")

    @property
    def head_dim(self) -> int:
        """Numbers of one query or key head: the part without a position and the part with one."""
        return self.nope_dim + self.rope_dim

    @property
    def cached_dim(self) -> int:
        """Numbers that the cache keeps of one token in one layer."""
        return self.kv_rank + self.rope_dim


def check_counts(of: object, prefix: str, least: int, *names: str) -> None:
    for name in names:
        value = getattr(of, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{prefix}{name}={value!r}: an integer of {least} or more is needed")
