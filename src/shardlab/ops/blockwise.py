"""Attention with its log-sum-exp in plain torch: block by block of keys, never a score for every pair at once.

torch's own attention gives no log-sum-exp, and without one attention over parts of the keys cannot be merged.
Online softmax: Milakov and Gimelshein 2018, arXiv 1805.02867; in blocks: Dao et al. 2022, arXiv 2205.14135.
"""

from __future__ import annotations

import torch

from shardlab.ops.positions import Span, hides_all, per_head, shows_all, span, visible
from shardlab.ops.reference import each_query_heads, even_groups
from shardlab_kernels.checks import wide

SCORES = 1 << 18  # of a tile, over all rows and heads: 1 MiB in fp32, which stays in a processor's cache
QUERIES = (16, 256)  # of a tile: fewer make thin products, more calculate much that causal attention hides
KEYS = 128  # of a tile, or more where there are few queries


def attend_lse(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_index: tuple[int, ...],
    q_positions: torch.Tensor,
    k_positions: torch.Tensor,
    window: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """q[B,N,S,H], k, v[B,K,C,H], positions [S] or [B,S], [C] or [B,C] -> (out[B,N,S,H], lse[B,N,S] in fp32 or fp64).

    ops.attention_lse, whose docstring says what the rest means. Sums are in fp32 (fp64 for fp64). Where groups are
    even K and V are read in place; else a tile's keys are copied for each query head.
    """
    (batch, num_heads, num_queries, h), num_keys = q.shape, k.shape[2]
    out = q.new_empty(batch, num_queries, num_heads, h).transpose(1, 2)  # as the output projection wants it
    lse = torch.empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
    in_place = even_groups(kv_index, k.shape[1])
    query_size, key_size = tile_size(batch * num_heads, num_queries)
    key_blocks = [slice(start, start + key_size) for start in range(0, num_keys, key_size)]
    key_spans = [span(k_positions[..., keys]) for keys in key_blocks]
    for start in range(0, num_queries, query_size):
        queries = slice(start, start + query_size)
        here, block = q_positions[..., queries], _Queries(q[:, :, queries], k.shape[1] if in_place else num_heads)
        query_span = span(here)
        for keys, key_span in zip(key_blocks, key_spans, strict=True):
            if hides_all(query_span, key_span, window):
                continue
            some_k, some_v = (x[:, :, keys] if in_place else each_query_heads(x[:, :, keys], kv_index) for x in (k, v))
            if shows_all(query_span, key_span, window):
                block.absorb(some_k, some_v)
            else:
                block.absorb_masked(some_k, some_v, here, k_positions[..., keys], window, key_span)
        out[:, :, queries], lse[:, :, queries] = block.finish()
    return out, lse


def tile_size(rows_and_heads: int, num_queries: int) -> tuple[int, int]:
    """-> (queries, keys) of a tile: about SCORES in all, whatever the lengths of the sequences are."""
    least, most = QUERIES
    queries = max(1, min(num_queries, most, max(least, SCORES // (max(rows_and_heads, 1) * KEYS))))
    return queries, max(KEYS, SCORES // (max(rows_and_heads, 1) * queries))


class _Queries:
    """q[B,N,s,H], and what they have gathered so far: the largest score m, and in units of exp(m) the sum of weights l
    and of weighted values acc. The query heads of one KV head are rows of one product: [B,K,N/K*s,...].
    """

    def __init__(self, q: torch.Tensor, num_groups: int) -> None:
        self.shape, self.dtype = q.shape, q.dtype
        batch, num_heads, num_queries, h = q.shape
        rows = num_heads // max(num_groups, 1) * num_queries
        self.q = (wide(q) * h**-0.5).reshape(batch, num_groups, rows, h)
        self.m = self.q.new_full((batch, num_groups, rows, 1), float("-inf"))
        self.l = torch.zeros_like(self.m)
        self.acc = torch.zeros_like(self.q)

    def absorb(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """k, v[B,K,c,H], all of which every query sees."""
        self._weigh(self.q @ wide(k).transpose(2, 3), wide(v))

    def absorb_masked(
        self,
        k: torch.Tensor,
        v: torch.Tensor,
        q_positions: torch.Tensor,
        k_positions: torch.Tensor,
        window: int | None,
        key_span: Span | None,
    ) -> None:
        """k, v[B,K,c,H], of which a query sees what its position lets it see."""
        scores = self.q @ wide(k).transpose(2, 3)
        hidden = ~per_head(visible(q_positions.to(k.device), k_positions.to(k.device), window))
        scores.view(*self.shape[:3], k.shape[2]).masked_fill_(hidden, float("-inf"))
        v = wide(v)
        if key_span is None or key_span.low < 0:  # the weight is 0, but 0 * NaN is NaN: what is not filled may be that
            v = v.masked_fill((k_positions < 0).to(v.device).view(-1, 1, v.shape[2], 1), 0)
        self._weigh(scores, v)

    def _weigh(self, scores: torch.Tensor, v: torch.Tensor) -> None:
        m = torch.maximum(self.m, scores.amax(-1, keepdim=True))
        unit = m.masked_fill(m == float("-inf"), 0)  # a query that has seen no key yet: -inf - -inf would be NaN
        weights = scores.sub_(unit).exp_()
        rescale = (self.m - unit).exp_()
        self.m, self.l = m, self.l.mul_(rescale).add_(weights.sum(-1, keepdim=True))
        self.acc = self.acc.mul_(rescale).add_(weights @ v)

    def finish(self) -> tuple[torch.Tensor, torch.Tensor]:
        """-> (out[B,N,s,H], lse[B,N,s]); of no key at all 0 and -inf."""
        out = self.acc / self.l.masked_fill(self.l == 0, 1)
        return out.view(self.shape).to(self.dtype), (self.m + self.l.log()).view(self.shape[:3])
