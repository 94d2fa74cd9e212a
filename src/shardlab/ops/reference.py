"""The operations of the layers in plain torch: what a CPU runs, and what the kernels are held to."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from shardlab.ops.positions import check_window, per_head, visible


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x[B,N,S,H], cos, sin [S,H] or [B,S,H] -> [B,N,S,H]: each pair (element i with i + H/2) turned by its angle."""
    if cos.dim() == 3:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_index: tuple[int, ...],
    window: int | None = None,
    lengths: torch.Tensor | None = None,
    q_positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """q[B,N,S,H], k, v[B,K,C,H] -> [B,N,S,H]: ops.attention, whose docstring says what the rest means.

    Rows of different lengths go one by one, each as it would go alone: of a cache that is not full nothing more is
    read, and no mask is needed (9 heads, 8 rows of up to 2048 positions: a fifth of the time of one masked call).
    """
    if lengths is None:
        return _attend_filled(q, k, v, kv_index, window, q_positions)
    if lengths.device.type != "cpu":
        return _attend_masked(q, k, v, kv_index, window, lengths, q_positions)
    filled = lengths.tolist()
    for row, length in enumerate(filled):
        if not 0 <= length <= k.shape[2]:
            raise ValueError(f"lengths[{row}]={length}: the cache k{tuple(k.shape)} has 0..{k.shape[2]} positions")
    if len(set(filled)) == 1:
        k, v = k[:, :, : filled[0]], v[:, :, : filled[0]]
        return _attend_filled(q, k, v, kv_index, window, q_positions)
    out = torch.empty_like(q)
    for row, length in enumerate(filled):
        one = slice(row, row + 1)
        positions = q_positions[row] if q_positions is not None and q_positions.dim() == 2 else q_positions
        out[one] = _attend_filled(q[one], k[one, :, :length], v[one, :, :length], kv_index, window, positions)
    return out


def _attend_filled(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_index: tuple[int, ...],
    window: int | None,
    q_positions: torch.Tensor | None,
) -> torch.Tensor:
    """All C positions are filled.

    Where every KV head is read by as many neighbouring query heads, torch's own grouped attention reads K and V in
    place; otherwise each query head gets a copy of its KV head.
    """
    grouped = even_groups(kv_index, k.shape[1])
    if not grouped:
        k, v = (each_query_heads(x, kv_index) for x in (k, v))
    if q_positions is None:
        mask = causal_mask(q.shape[2], k.shape[2], window, q.device)
        causal = mask is None and q.shape[2] > 1
    else:
        keys = torch.arange(k.shape[2], device=q.device)
        mask, causal = per_head(visible(q_positions.to(q.device), keys, window)), False
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


def _attend_masked(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_index: tuple[int, ...],
    window: int | None,
    lengths: torch.Tensor,
    q_positions: torch.Tensor | None,
) -> torch.Tensor:
    """The lengths are on a device, which is asked for no number: a CUDA graph may record this."""
    keys = torch.arange(k.shape[2], device=q.device)
    filled = keys < lengths.unsqueeze(1)
    # A hidden key has the weight 0, and 0 * NaN is NaN: what is not filled must be numbers.
    k, v = (x.masked_fill(~filled[:, None, :, None], 0) for x in (k, v))
    if q_positions is None:
        last = lengths.clamp(max=k.shape[2]).long().unsqueeze(1)
        q_positions = last - q.shape[2] + torch.arange(q.shape[2], device=q.device)
    mask = per_head(visible(q_positions.to(q.device), keys, window)) & filled[:, None, None]
    grouped = even_groups(kv_index, k.shape[1])
    if not grouped:
        k, v = (each_query_heads(x, kv_index) for x in (k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
    return out.masked_fill(~mask.any(-1, keepdim=True), 0)  # not every backend of a GPU says 0 of no key at all


@functools.cache
def even_groups(kv_index: tuple[int, ...], num_kv_heads: int) -> bool:
    """Whether every KV head is read by as many neighbouring query heads, all of them in order."""
    group = len(kv_index) // max(num_kv_heads, 1)
    return kv_index == tuple(head for head in range(num_kv_heads) for _ in range(group))


def each_query_heads(x: torch.Tensor, kv_index: tuple[int, ...]) -> torch.Tensor:
    """x[B,K,C,H] -> [B,N,C,H]: a copy of its KV head for each query head."""
    return x.index_select(1, torch.tensor(kv_index) if x.device.type == "cpu" else _index_on(kv_index, x.device))


@functools.cache  # never evicts: a CUDA graph may still read it, and must not copy it from the host
def _index_on(kv_index: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(kv_index, device=device)


def causal_mask(
    num_new: int, num_all: int, window: int | None, device: torch.device | None = None
) -> torch.Tensor | None:
    """-> [S,C] bool, True where a query may look; None where torch's own causal rule (or none) says the same."""
    windowed = window is not None and num_all > window
    if not windowed and (num_new == num_all or num_new == 1):
        return None
    check_window(window)
    positions = torch.arange(num_all - num_new, num_all, device=device)
    return visible(positions, torch.arange(num_all, device=device), window)
