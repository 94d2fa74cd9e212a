"""The KV cache, sharded by head: a rank keeps K and V of the KV heads that its query heads read, and no others.

A layer makes its own cache (attention.new_cache), and the KVCache holds those of one stage. It knows how far each row
is filled: rows have lengths of their own, so that a finished request leaves its row to the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Appended = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


class LayerSlot(Protocol):
    """One layer's cache in one step, as attention sees it."""

    def append(self, k: torch.Tensor, v: torch.Tensor) -> Appended:
        """k, v[B,K_tp,S,H] of the new positions -> (k, v[B,K_tp,C,H] of all, lengths).

        lengths int32[B]: how many of the C positions are filled, the new ones last. None: all of them.
        """
        ...


@dataclass(frozen=True)
class Step:
    """The next S positions of every row: what they are, and each layer's place for them."""

    positions: torch.Tensor  # int64[S] where all rows are alike, else [B,S]
    layers: Sequence[LayerSlot]


class Cache(Protocol):
    """What a model needs of a cache: `next` before the layers, `advance` after them."""

    def next(self, batch: int, num_new: int) -> Step: ...
    def advance(self, num_new: int) -> None: ...


class LayerCache:
    """k[B,K_tp,C,H] and v[B,K_tp,C,H] of one layer."""

    def __init__(self, k: torch.Tensor, v: torch.Tensor) -> None:
        self.k, self.v = k, v

    @classmethod
    def empty(
        cls, batch: int, num_kv_heads: int, capacity: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> LayerCache:
        """Room for `capacity` positions a row; nothing is written to it before it is used."""
        k, v = torch.empty(2, batch, num_kv_heads, capacity, head_dim, dtype=dtype, device=device)
        return cls(k, v)

    def rows(self, start: int, stop: int) -> LayerCache:
        """Rows start .. stop, as a view."""
        return LayerCache(self.k[start:stop], self.v[start:stop])

    @property
    def num_bytes(self) -> int:
        return self.k.nbytes + self.v.nbytes


@dataclass(frozen=True)
class _Alike:
    """All rows go on at position `start`."""

    cache: LayerCache
    start: int

    def append(self, k: torch.Tensor, v: torch.Tensor) -> Appended:
        stop = self.start + k.shape[2]
        self.cache.k[:, :, self.start : stop] = k
        self.cache.v[:, :, self.start : stop] = v
        return self.cache.k[:, :, :stop], self.cache.v[:, :, :stop], None


@dataclass(frozen=True)
class _Apart:
    """Each row goes on at a place of its own: rows[B,1], positions[B,S]. What is handed on ends at `stop`."""

    cache: LayerCache
    rows: torch.Tensor
    positions: torch.Tensor
    lengths: torch.Tensor
    stop: int

    def append(self, k: torch.Tensor, v: torch.Tensor) -> Appended:
        at = (self.rows, self.positions)
        self.cache.k.transpose(1, 2).index_put_(at, k.transpose(1, 2))
        self.cache.v.transpose(1, 2).index_put_(at, v.transpose(1, 2))
        return self.cache.k.narrow(2, 0, self.stop), self.cache.v.narrow(2, 0, self.stop), self.lengths


class KVCache:
    """The caches of one stage's layers, `capacity` positions a row, and lengths[B]: how many of them are filled."""

    def __init__(self, layers: Sequence[LayerCache], lengths: torch.Tensor | None = None) -> None:
        self.layers = list(layers)
        batch, _, self.capacity, _ = self.layers[0].k.shape
        self.lengths = torch.zeros(batch, dtype=torch.int64) if lengths is None else lengths  # of the host

    def next(self, batch: int, num_new: int) -> Step:
        """Place for `num_new` more positions of each row. Raises ValueError for another batch, or without room."""
        rows = len(self.lengths)
        fullest = int(self.lengths.max()) if rows else 0
        if batch != rows or fullest + num_new > self.capacity:
            raise ValueError(
                f"the KV cache has {rows} rows of {self.capacity} positions, {fullest} filled in the fullest; "
                f"{batch} rows of {num_new} new positions do not go in"
            )
        device = self.layers[0].k.device
        if not rows or int(self.lengths.min()) == fullest:
            positions = torch.arange(fullest, fullest + num_new, device=device)
            return Step(positions, [_Alike(layer, fullest) for layer in self.layers])
        positions = (self.lengths.unsqueeze(1) + torch.arange(num_new)).to(device)
        lengths = (self.lengths + num_new).to(device, torch.int32)
        each, stop = torch.arange(rows, device=device).unsqueeze(1), fullest + num_new
        return Step(positions, [_Apart(layer, each, positions, lengths, stop) for layer in self.layers])

    def advance(self, num_new: int) -> None:
        """`num_new` positions more are filled, in every row and layer."""
        self.lengths += num_new

    def rows(self, start: int, stop: int) -> KVCache:
        """Rows start .. stop as a cache of their own: a view, so that what is appended there is here as well."""
        return KVCache([layer.rows(start, stop) for layer in self.layers], self.lengths[start:stop])

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` positions of every row. Raises ValueError where fewer are filled."""
        if not 0 <= length <= self.shortest:
            raise ValueError(f"rewind({length}): the shortest row has {self.shortest} positions; allowed: 0 to that")
        self.lengths.fill_(length)

    @property
    def shortest(self) -> int:
        """Positions filled in every row."""
        return int(self.lengths.min()) if len(self.lengths) else 0

    @property
    def num_bytes(self) -> int:
        """Bytes that this rank's cache takes."""
        return sum(layer.num_bytes for layer in self.layers)


class DeviceKVCache:
    """The storage of a KVCache, from here on with its lengths on the device, and one position a step.

    Nothing in a step depends on a number of the host, so a CUDA graph can replay it. The KVCache that it was made from
    no longer knows how many positions are filled. Who steps sees to it that there is room: a write past the capacity
    cannot be noticed without asking the device.
    """

    def __init__(self, cache: KVCache) -> None:
        device = cache.layers[0].k.device
        self._lengths = cache.lengths.to(device, copy=True)
        self._after = (self._lengths + 1).to(torch.int32)
        positions = self._lengths.unsqueeze(1)  # a view: it advances with the lengths
        rows = torch.arange(len(self._lengths), device=device).unsqueeze(1)
        slots = [_Apart(layer, rows, positions, self._after, cache.capacity) for layer in cache.layers]
        self._step = Step(positions, slots)

    def next(self, batch: int, num_new: int) -> Step:
        """Place for one more position of each row."""
        assert (batch, num_new) == (len(self._lengths), 1), "a step on the device is one token a row"
        return self._step

    def advance(self, num_new: int) -> None:
        """One position on, after every layer has appended."""
        self._lengths += num_new
        self._after += num_new
