"""The operations of the layers in plain torch: what a CPU runs, and what the kernels are held to."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x[B,N,S,H], cos[S,H], sin[S,H] -> [B,N,S,H]: each pair (element i with i + H/2) turned by its angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_index: tuple[int, ...],
    window: int | None = None,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """q[B,N,S,H], k, v[B,K,C,H] -> [B,N,S,H]: causal; q are the last S of the C positions.

    Query head i reads KV head kv_index[i]. Where every KV head is read by as many neighbouring query heads,
    torch's own grouped attention reads K and V in place; otherwise each query head gets a copy of its KV
    head. `lengths`[B] (with S = 1): only so many positions of a sequence are filled, and the query is the last.
    """
    group = len(kv_index) // k.shape[1]
    grouped = kv_index == tuple(i // group for i in range(len(kv_index)))
    if not grouped:
        picked = torch.tensor(kv_index, device=k.device)
        k, v = k.index_select(1, picked), v.index_select(1, picked)
    if lengths is None:
        mask = causal_mask(q.shape[2], k.shape[2], window, q.device)
        causal = mask is None and q.shape[2] > 1
    else:
        mask, causal = filled_mask(lengths, k.shape[2], window), False
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


def filled_mask(lengths: torch.Tensor, capacity: int, window: int | None) -> torch.Tensor:
    """lengths[B] -> [B,1,1,C] bool: the filled positions, of which the last query sees `window`."""
    key, filled = torch.arange(capacity, device=lengths.device), lengths.view(-1, 1, 1, 1)
    mask = key < filled
    return mask if window is None else mask & (key >= filled - window)
