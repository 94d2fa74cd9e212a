"""Attention over a part of the keys, with what is needed to merge it with the other parts: its log-sum-exp.

Ring attention (Liu et al. 2023, arXiv 2310.01889) and context-parallel decode hold a part of the keys on each rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shardlab.ops.blockwise import attend_lse
from shardlab.ops.dispatch import head_map, on_kernels
from shardlab.ops.positions import Run, check_positions, check_window, hides_all, runs
from shardlab_kernels import merge as _merge
from shardlab_kernels.flash_attention import flash_attention

MAX_RUNS = 4  # that are worth a launch each: zigzag has two, of queries as of keys


def attention_lse(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_index: tuple[int, ...],
    *,
    q_positions: torch.Tensor,
    k_positions: torch.Tensor,
    window: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """q[B,N,S,H], k, v[B,K,C,H] -> (out[B,N,S,H] in q's dtype, lse[B,N,S] in fp32): attention over these keys alone.

    lse is the natural logarithm of the sum of exp(q . k / sqrt(H)) over the keys that a query sees: those at positions
    up to its own, of which `window` keeps the ones less than `window` before it. q_positions are [S] or [B,S],
    k_positions [C] or [B,C], int64 or int32, in any order; a key at a negative position is not filled: nobody sees it,
    and it may be NaN. A query that sees no key gives out = 0, lse = -inf. Query head i reads KV head kv_index[i].

    Give positions in the host's memory, whatever the device of q: it then leaves out what nobody sees without asking.
    On a GPU runs of positions that all rows share go to flash_attention; others go through torch, block by block, as
    everything does on a CPU (lse of fp64 is fp64 there). Raises ValueError for sizes or positions that do not fit.
    """
    if k.shape != v.shape or k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3]:
        raise ValueError(f"q{tuple(q.shape)}, k{tuple(k.shape)}, v{tuple(v.shape)}: q[B,N,S,H], k, v[B,K,C,H] needed")
    if len(kv_index) != q.shape[1] or not all(0 <= kv < k.shape[1] for kv in kv_index):
        raise ValueError(
            f"kv_index={kv_index}: a KV head of k{tuple(k.shape)} for each head of q{tuple(q.shape)} needed"
        )
    check_window(window)
    check_positions("q_positions", q_positions, q.shape[0], q.shape[2])
    check_positions("k_positions", k_positions, q.shape[0], k.shape[2])
    if on_kernels(q):
        q_runs, k_runs = runs(q_positions, MAX_RUNS), runs(k_positions, MAX_RUNS)
        if q_runs is not None and k_runs is not None:
            return _by_runs(q, k, v, kv_index, q_runs, k_runs, window)
    return attend_lse(q, k, v, kv_index, q_positions, k_positions, window)


def _by_runs(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_index: tuple[int, ...],
    q_runs: list[Run],
    k_runs: list[Run],
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A launch for each run of queries with each run of keys that it sees."""
    heads = head_map(kv_index, k.shape[1], q.device)
    out, lse = torch.zeros_like(q), q.new_full(q.shape[:3], float("-inf"), dtype=torch.float32)
    for queries in q_runs:
        parts = [
            flash_attention(
                q[:, :, queries.where],
                k[:, :, keys.where],
                v[:, :, keys.where],
                heads,
                query_offset=queries.first - keys.first,
                window=window,
            )
            for keys in k_runs
            if not hides_all(queries.span, keys.span, window)
        ]
        merged = parts[0] if len(parts) == 1 else merge(*zip(*parts, strict=True)) if parts else None
        if merged is not None and queries.stop - queries.start == q.shape[2]:
            return merged
        if merged is not None:
            out[:, :, queries.where], lse[:, :, queries.where] = merged
    return out, lse


def merge(outs: Sequence[torch.Tensor], lses: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """P parts out[...,H], lse[...] of attention over different keys -> (out[...,H], lse[...]) over all of them.

    out = sum over P of exp(lse_p - lse) * out_p, lse = log(sum over P of exp(lse_p)); a part with lse = -inf counts
    nothing, and where all are, out = 0 and lse = -inf. Sums are in fp32; out is in the dtype of the parts. In a half
    precision each merge rounds: merge all parts at once. Raises ValueError for parts that do not fit together.
    """
    given = [(tuple(out.shape), tuple(lse.shape)) for out, lse in zip(outs, lses, strict=False)]
    if len(outs) != len(lses) or len(set(given)) != 1 or given[0][0][:-1] != given[0][1]:
        raise ValueError(
            f"{len(outs)} outs, {len(lses)} lses, of shapes {given}: as many of both are needed, at least 1, all "
            "out[...,H] and lse[...] of the same sizes"
        )
    stacked = torch.stack(tuple(outs)), torch.stack(tuple(lses))
    return _merge.merge(*stacked) if on_kernels(outs[0]) else _merge.reference(*stacked)
