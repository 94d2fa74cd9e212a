"""Attention as the formula says it, a query at a time in fp64: what ops is held to."""

from __future__ import annotations

import torch


def rows_of(positions: torch.Tensor, batch: int) -> torch.Tensor:
    """[S] or [B,S] -> [B,S]."""
    return positions.expand(batch, -1)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_index: tuple[int, ...],
    q_positions: torch.Tensor,
    k_positions: torch.Tensor,
    window: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """q[B,N,S,H], k, v[B,K,C,H] -> (out[B,N,S,H], lse[B,N,S]) in fp64. What a query does not see is not looked at."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    lse = torch.full(q.shape[:3], float("-inf"), dtype=torch.float64)
    q_positions, k_positions = rows_of(q_positions, q.shape[0]), rows_of(k_positions, q.shape[0])
    for b, n, s in ((b, n, s) for b in range(q.shape[0]) for n in range(q.shape[1]) for s in range(q.shape[2])):
        here = int(q_positions[b, s])
        first = 0 if window is None else max(0, here - window + 1)
        seen = [c for c, at in enumerate(k_positions[b].tolist()) if first <= at <= here]
        if seen:
            scores = k[b, kv_index[n], seen].double() @ q[b, n, s].double() / q.shape[3] ** 0.5
            lse[b, n, s] = scores.logsumexp(0)
            out[b, n, s] = scores.softmax(0) @ v[b, kv_index[n], seen].double()
    return out, lse
