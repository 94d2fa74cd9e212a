"""Inputs that the tests of ops share."""

from __future__ import annotations

import torch

from shardlab.layers.sharding import split_heads

# Heads of one rank: multi-head, grouped, multi-query, and each of the four ranks that share 9 heads with 3 KV heads.
GROUPS = [(0, 1), (0, 0, 1, 1), (0, 0, 0), *(heads.kv_index for heads in split_heads(9, 3, 4))]


def draw(
    batch: int,
    kv_index: tuple[int, ...],
    num_queries: int,
    num_keys: int,
    h: int = 16,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q[B,N,S,H] as a projection leaves it, k, v[B,K,C,H] as a cache does."""
    torch.manual_seed(0)
    q = torch.randn(batch, num_queries, len(kv_index), h).transpose(1, 2)
    k, v = torch.randn(2, batch, max(kv_index) + 1, num_keys, h)
    return q.to(dtype), k.to(dtype), v.to(dtype)
