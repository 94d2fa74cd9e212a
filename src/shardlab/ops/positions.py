"""Positions as tensors: which key a query sees, whatever the order in which queries and keys lie in memory.

Zigzag context parallelism holds two runs of positions, the slots of a batch are at different places, and a cache has
positions that are not filled yet: their keys have a negative position, which nobody sees.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


def visible(q_positions: torch.Tensor, k_positions: torch.Tensor, window: int | None) -> torch.Tensor:
    """q_positions[S] or [B,S], k_positions[C] or [B,C] -> [S,C] or [B,S,C] bool, True where a query may look.

    A query sees the filled keys up to its own position, with a window those less than `window` before it.
    """
    filled = k_positions.masked_fill(k_positions < 0, torch.iinfo(k_positions.dtype).max)  # those: after every query
    query, key = q_positions.unsqueeze(-1), filled.unsqueeze(-2)
    mask = key <= query
    return mask if window is None else mask & (key > query - window)


def per_head(mask: torch.Tensor) -> torch.Tensor:
    """[S,C] or [B,S,C] -> a mask that goes with scores[B,N,S,C]."""
    return mask if mask.dim() == 2 else mask.unsqueeze(1)


class Span(NamedTuple):
    """The lowest and the highest of some positions."""

    low: int
    high: int


def span(positions: torch.Tensor) -> Span | None:
    """None where a GPU would have to be asked. There must be positions."""
    if positions.device.type != "cpu":
        return None
    low, high = positions.aminmax()
    return Span(int(low), int(high))


def hides_all(queries: Span | None, keys: Span | None, window: int | None) -> bool:
    """Whether it is known that no query sees a key."""
    if queries is None or keys is None:
        return False
    too_old = window is not None and keys.high <= queries.low - window
    return too_old or keys.high < 0 or keys.low > queries.high


def shows_all(queries: Span | None, keys: Span | None, window: int | None) -> bool:
    """Whether it is known that every query sees every key."""
    if queries is None or keys is None:
        return False
    in_window = window is None or keys.low > queries.high - window
    return in_window and 0 <= keys.low and keys.high <= queries.low


class Run(NamedTuple):
    """Neighbours in memory that are neighbours in position: positions[start:stop] = first, first + 1, ..., last."""

    start: int
    stop: int
    first: int

    @property
    def where(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def span(self) -> Span:
        return Span(self.first, self.first + self.stop - self.start - 1)


def runs(positions: torch.Tensor, most: int) -> list[Run] | None:
    """positions[S] or [B,S] -> their runs, without the negative ones. None for rows that differ, or more than `most`.

    Positions on a GPU are fetched, which waits for it; they are not, and None, while it records a CUDA graph.
    """
    if positions.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    positions = positions.cpu()
    if positions.dim() == 2:
        if not torch.equal(positions, positions[:1].expand_as(positions)):
            return None
        positions = positions[:1].flatten()
    if not positions.numel():
        return []
    before, after = positions[:-1], positions[1:]
    breaks = (after - before != 1) & ((before >= 0) | (after >= 0)) | ((before < 0) & (after >= 0))
    edges = [0, *(breaks.nonzero().flatten() + 1).tolist(), positions.numel()]
    found = [Run(start, stop, int(positions[start])) for start, stop in zip(edges, edges[1:], strict=False)]
    found = [run for run in found if run.first >= 0]
    return found if len(found) <= most else None


def first_of_run(positions: torch.Tensor) -> int | None:
    """-> the first of positions[S] that are one run, and that the host knows; else None. A GPU is not asked."""
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
