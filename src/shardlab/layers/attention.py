"""Attention by heads: each rank runs its own query heads from end to end, and the output product sums them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from shardlab import ops
from shardlab.comm.mesh import Axis
from shardlab.layers.kv_cache import LayerCache, LayerSlot
from shardlab.layers.linear import ColumnParallelLinear, RowParallelLinear
from shardlab.layers.norm import RMSNorm
from shardlab.layers.parameter import load_full
from shardlab.layers.sharding import split_heads, widen


class Attention(nn.Module):
    """x[B,S,D] -> q[B,N_tp,S,H], k, v[B,K_tp,S,H] -> attention -> . o[N_tp*H,D] -> all_reduce -> [B,S,D].

    Multi-head (K = N), grouped-query and multi-query (K = 1), causal. Query heads are split as evenly as they
    go; a rank holds the KV heads that they read, so beyond T = K some are held twice. `window`: a query sees
    the last `window` positions only (Mistral). Raises ValueError for more ranks than query heads.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        axis: Axis,
        *,
        bias: bool = False,
        qk_norm_eps: float | None = None,
        window: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.heads = split_heads(num_heads, num_kv_heads, axis.size)[axis.rank]
        self.head_dim = head_dim
        self.window = window
        q, kv = widen(self.heads.query, head_dim), widen(self.heads.kv, head_dim)
        q_width, kv_width = num_heads * head_dim, num_kv_heads * head_dim
        self.q = ColumnParallelLinear(d_model, q_width, axis, bias=bias, held=q, dtype=dtype, device=device)
        self.k = ColumnParallelLinear(d_model, kv_width, axis, bias=bias, held=kv, dtype=dtype, device=device)
        self.v = ColumnParallelLinear(d_model, kv_width, axis, bias=bias, held=kv, dtype=dtype, device=device)
        self.o = RowParallelLinear(q_width, d_model, axis, bias=bias, held=q, dtype=dtype, device=device)
        norms = qk_norm_eps is not None
        self.q_norm = RMSNorm(head_dim, qk_norm_eps, dtype=dtype, device=device) if norms else None
        self.k_norm = RMSNorm(head_dim, qk_norm_eps, dtype=dtype, device=device) if norms else None

    @classmethod
    def from_full(cls, full: Mapping[str, torch.Tensor], axis: Axis, *, num_heads: int, num_kv_heads: int) -> Attention:
        """full: q.weight[N*H,D], k.weight[K*H,D], v.weight[K*H,D], o.weight[D,N*H], and their biases or none."""
        weight = full["q.weight"]
        attention = cls(
            weight.shape[1],
            num_heads,
            num_kv_heads,
            weight.shape[0] // num_heads,
            axis,
            bias="q.bias" in full,
            dtype=weight.dtype,
            device=weight.device,
        )
        load_full(attention, full)
        return attention

    @property
    def bias(self) -> torch.Tensor | None:
        """b[D] or none: to be added to the reduced `partial`."""
        return self.o.bias

    def new_cache(self, batch: int, capacity: int, dtype: torch.dtype, device: torch.device) -> LayerCache:
        """An empty cache of this layer's KV heads on this rank, `capacity` positions for each of `batch` rows."""
        return LayerCache.empty(batch, len(self.heads.kv), capacity, self.head_dim, dtype, device)

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, cache: LayerSlot | None = None
    ) -> torch.Tensor:
        """x[B,S,D], cos, sin[S,H] or [B,S,H] of these positions; `cache` takes K and V, and brings those before."""
        return self.o(self.attended(x, cos, sin, cache))

    def partial(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, cache: LayerSlot | None = None
    ) -> torch.Tensor:
        """The same before its reduce: partial[B,S,D]{tp}, without the bias."""
        return self.o.partial(self.attended(x, cos, sin, cache))

    def attended(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, cache: LayerSlot | None) -> torch.Tensor:
        """x[B,S,D] -> what this rank's heads found, [B,S,N_tp*H]."""
        q, k, v = (self._by_head(project(x)) for project in (self.q, self.k, self.v))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = ops.rope(q, k, cos, sin)
        lengths = None
        if cache is not None:
            k, v, lengths = cache.append(k, v)
        out = ops.attention(q, k, v, self.heads.kv_index, self.window, lengths)
        return out.transpose(1, 2).flatten(2)

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        """[B,S,N_tp*H] -> [B,N_tp,S,H]."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
