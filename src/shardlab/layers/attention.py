"""Attention by heads: each rank runs its own query heads from end to end, and the output product sums them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from shardlab.layers.kv_cache import LayerCache
from shardlab.layers.linear import ColumnParallelLinear, RowParallelLinear
from shardlab.layers.norm import RMSNorm
from shardlab.layers.parameter import load_full
from shardlab.layers.rope import rotate
from shardlab.mesh import Axis
from shardlab.sharding import split_heads, widen


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

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, cache: LayerCache | None = None
    ) -> torch.Tensor:
        """x[B,S,D], cos[S,H], sin[S,H] of these positions; `cache` takes K and V and brings those of earlier ones."""
        q, k, v = (self._by_head(project(x)) for project in (self.q, self.k, self.v))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.append(k, v)
        out = attend(q, k, v, self.heads.kv_index, self.window)
        return self.o(out.transpose(1, 2).flatten(2))

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        """[B,S,N_tp*H] -> [B,N_tp,S,H]."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv_index: tuple[int, ...], window: int | None = None
) -> torch.Tensor:
    """q[B,N,S,H], k, v[B,K,C,H] -> [B,N,S,H]: causal; q are the last S of the C positions.

    Query head i reads KV head kv_index[i]. Where every KV head is read by as many neighbouring query heads,
    torch's own grouped attention reads K and V in place; otherwise each query head gets a copy of its KV
    head.
    """
    num_new, num_all = q.shape[2], k.shape[2]
    group = len(kv_index) // k.shape[1]
    grouped = kv_index == tuple(i // group for i in range(len(kv_index)))
    if not grouped:
        picked = torch.tensor(kv_index, device=k.device)
        k, v = k.index_select(1, picked), v.index_select(1, picked)
    mask = causal_mask(num_new, num_all, window, q.device)
    causal = mask is None and num_new > 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


def causal_mask(
    num_new: int, num_all: int, window: int | None, device: torch.device | None = None
) -> torch.Tensor | None:
    """-> [S,C] bool, True where a query may look; None where torch's own causal rule (or none) says the same."""
    windowed = window is not None and num_all > window
    if not windowed and (num_new == num_all or num_new == 1):
        return None
    query = torch.arange(num_all - num_new, num_all, device=device).unsqueeze(1)
    key = torch.arange(num_all, device=device)
    mask = key <= query
    return mask & (key > query - window) if windowed and window is not None else mask
