"""Decode one token after another. On a GPU the whole step, from token to logits, is one CUDA graph.

A step of a small model is some four hundred kernels of a few microseconds each; launched one by one from Python they
would take many times as long as they run. A graph launches them all at once.
"""

from __future__ import annotations

from typing import Protocol

import torch

from shardlab.comm.mesh import Mesh
from shardlab.layers.kv_cache import Cache, DeviceKVCache, KVCache

_WARM_UP = 2  # steps before the capture: the first compiles and tunes the kernels, which a capture cannot


class Steppable(Protocol):
    """What a step needs of a model."""

    mesh: Mesh

    @property
    def device(self) -> torch.device: ...
    def next_logits(self, token_ids: torch.Tensor, cache: Cache | None = None) -> torch.Tensor | None: ...


def is_whole(model: Steppable) -> bool:
    """Whether a forward of this model sends nothing."""
    return all(model.mesh[axis].size == 1 for axis in ("pp", "cp", "tp", "ep"))


class Decoder:
    """Steps through a cache that holds the prompt, one token a row, up to the cache's capacity.

    The graph is captured at the first step, where the model is whole and on a GPU. Elsewhere each step runs as it is
    written (a CPU is better off with a growing cache). The cache belongs to the Decoder from here on. Raises
    ValueError for a model whose logits are on another rank.
    """

    def __init__(self, model: Steppable, cache: KVCache) -> None:
        if model.mesh["pp"].size > 1:
            raise ValueError(f"pp={model.mesh['pp'].size}: a Decoder steps a model that is on one stage; pp must be 1")
        self._model = model
        rows = len(cache.lengths)
        self._room = cache.capacity - (int(cache.lengths.max()) if rows else 0)
        self._cache = DeviceKVCache(cache)
        self._tokens = torch.zeros(rows, 1, dtype=torch.int64, device=model.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: torch.Tensor | None = None

    @property
    def graphed(self) -> bool:
        """Whether steps are replays of a CUDA graph."""
        return self._graph is not None

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens[B] -> logits[B,V] of what follows. The next step may overwrite them. Raises ValueError when full."""
        if self._room < 1:
            raise ValueError("the KV cache is full: make it for more positions")
        self._room -= 1
        self._tokens.copy_(tokens.view(-1, 1))
        if self._model.device.type != "cuda" or not is_whole(self._model):
            return self._body()
        if self._graph is None:
            self._capture()
        assert self._graph is not None and self._logits is not None
        self._graph.replay()
        return self._logits

    def _body(self) -> torch.Tensor:
        logits = self._model.next_logits(self._tokens, self._cache)
        assert logits is not None, "one stage is the last stage"
        return logits

    def _capture(self) -> None:
        """Warm up beside the current stream, as captures ask for, then record the step. Recording runs nothing."""
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self._body()
                self._cache.advance(-1)  # the same position again and again: the same numbers
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._body()
        self._graph = graph
