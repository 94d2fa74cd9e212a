"""Positions as tensors: which key a query sees, whatever the order in which queries and keys lie in memory."""

from __future__ import annotations

import torch


def visible(q_positions: torch.Tensor, k_positions: torch.Tensor, window: int | None) -> torch.Tensor:
    """q_positions[S] or [B,S], k_positions[C] or [B,C] -> [S,C] or [B,S,C] bool, True where a query may look.

    A query sees the keys up to its own position, of those the last `window`; a key whose position is negative is not
    filled, and nobody sees it.
    """
    filled = k_positions.where(k_positions >= 0, torch.iinfo(k_positions.dtype).max)  # else: after every query
    query, key = q_positions.unsqueeze(-1), filled.unsqueeze(-2)
    mask = key <= query
    return mask if window is None else mask & (key > query - window)


def per_head(mask: torch.Tensor) -> torch.Tensor:
    """[S,C] or [B,S,C] -> a mask that goes with scores[B,N,S,C]."""
    return mask if mask.dim() == 2 else mask.unsqueeze(1)


def first_of_run(positions: torch.Tensor) -> int | None:
    """-> the first of positions[S] that lie side by side and that the host knows; else None. A GPU is not asked."""
    if positions.dim() != 1 or not positions.numel() or positions.device.type != "cpu":
        return None
    first = int(positions[0])
    run = torch.arange(first, first + positions.numel(), dtype=positions.dtype)
    return first if torch.equal(positions, run) else None


def check_positions(name: str, positions: torch.Tensor, batch: int, number: int) -> None:
    """Raises ValueError unless positions are integers, [number] or [batch,number]."""
    if positions.shape not in ((number,), (batch, number)):
        raise ValueError(f"{name}{tuple(positions.shape)}: [{number}] or [{batch},{number}] is needed")
    check_integers(name, positions)


def check_integers(name: str, numbers: torch.Tensor) -> None:
    """Raises ValueError for a tensor that is neither int64 nor int32."""
    if numbers.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} is {numbers.dtype}: torch.int64 is needed")


def check_window(window: int | None) -> None:
    """Raises ValueError for a window that hides every key."""
    if window is not None and window < 1:
        raise ValueError(f"window={window}: at least 1 is needed, or None for no window")
