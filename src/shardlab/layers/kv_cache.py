"""The KV cache, sharded by head: a rank keeps K and V of the KV heads that its query heads read, and no others."""

from __future__ import annotations

import torch


class LayerCache:
    """k[B,K_tp,C,H] and v[B,K_tp,C,H] of one layer, of which the first `length` positions are filled."""

    lengths = None  # what `append` returns is filled to its end

    def __init__(self, k: torch.Tensor, v: torch.Tensor) -> None:
        self.k, self.v = k, v
        self.length = 0

    def append(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """k[B,K_tp,S,H], v -> views of all positions so far, [B,K_tp,length,H]. Raises ValueError when full."""
        stop = self.length + k.shape[2]
        if stop > self.k.shape[2] or k.shape[:2] != self.k.shape[:2]:
            raise ValueError(
                f"the KV cache holds [B,K,C,H]={tuple(self.k.shape)} with {self.length} positions filled; "
                f"{tuple(k.shape)} does not go in"
            )
        self.k[:, :, self.length : stop] = k
        self.v[:, :, self.length : stop] = v
        self.length = stop
        return self.k[:, :, :stop], self.v[:, :, :stop]


class KVCache:
    """One LayerCache a layer, allocated once for `capacity` positions.

    All sequences of the batch have the same length: there is no padding, and one number says where decoding
    stands.
    """

    def __init__(
        self,
        num_layers: int,
        batch: int,
        num_kv_heads: int,
        capacity: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        shape = (2, num_layers, batch, num_kv_heads, capacity, head_dim)
        self._storage = torch.empty(shape, dtype=dtype, device=device)
        self.layers = [LayerCache(k, v) for k, v in zip(*self._storage, strict=True)]
        self.capacity = capacity

    @property
    def length(self) -> int:
        """Positions filled: the position of the next token."""
        return self.layers[0].length

    @property
    def start(self) -> int:
        """The position of the next token, as the rotary embedding asks for it."""
        return self.length

    @property
    def num_bytes(self) -> int:
        """Bytes that this rank's cache takes."""
        return self._storage.nbytes


class DeviceLayerCache:
    """A LayerCache that is written where a tensor on the device says, one position a step.

    Nothing in a step depends on a number of the host, so a CUDA graph can replay it.
    """

    def __init__(self, layer: LayerCache, position: torch.Tensor, lengths: torch.Tensor) -> None:
        self.k, self.v = layer.k, layer.v
        self.position, self.lengths = position, lengths

    def append(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """k[B,K_tp,1,H], v -> the whole storage [B,K_tp,C,H], of which `lengths` positions are filled."""
        self.k.index_copy_(2, self.position, k)
        self.v.index_copy_(2, self.position, v)
        return self.k, self.v


class DeviceKVCache:
    """The storage of a KVCache, from here on with its position on the device: start[1] and lengths[B].

    The KVCache that it was made from no longer knows how many positions are filled. Who steps sees to it that there is
    room: a write past the capacity cannot be noticed without asking the device.
    """

    def __init__(self, cache: KVCache) -> None:
        k = cache.layers[0].k
        self.start = torch.full((1,), cache.length, dtype=torch.int64, device=k.device)
        lengths = torch.full((k.shape[0],), cache.length + 1, dtype=torch.int32, device=k.device)
        self.layers = [DeviceLayerCache(layer, self.start, lengths) for layer in cache.layers]
        self.lengths = lengths

    def advance(self) -> None:
        """One position on, after every layer has appended."""
        self.start += 1
        self.lengths += 1


AnyLayerCache = LayerCache | DeviceLayerCache
AnyKVCache = KVCache | DeviceKVCache
