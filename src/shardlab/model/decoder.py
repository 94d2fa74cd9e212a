"""Decode one token after another. On a GPU the whole step, from token to logits, is one CUDA graph.

A step of a small model is some four hundred kernels of a few microseconds each; launched one by one from Python they
would take many times as long as they run. A graph launches them all at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from shardlab.layers import DeviceKVCache, KVCache

if TYPE_CHECKING:
    from shardlab.model.transformer import Transformer

_WARM_UP = 2  # steps before the capture: the first compiles and tunes the kernels, which a capture cannot


class Decoder:
    """Steps through a cache that holds the prompt, one token a sequence, up to the cache's capacity.

    The graph is captured at the first step, where the model is on a GPU and on one rank. Elsewhere each step runs as
    it is written. The cache belongs to the Decoder from here on.
    """

    def __init__(self, model: Transformer, cache: KVCache) -> None:
        self._model = model
        self._room = cache.capacity - cache.length
        self._cache = DeviceKVCache(cache)
        k = cache.layers[0].k
        self._tokens = torch.zeros(k.shape[0], 1, dtype=torch.int64, device=k.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: torch.Tensor | None = None

    @staticmethod
    def pays(model: Transformer) -> bool:
        """Whether a step here is one graph: the model is whole, on a GPU. A CPU is better off with a growing cache."""
        return model.axis.size == 1 and model.embedding.local_weight.is_cuda

    @property
    def graphed(self) -> bool:
        """Whether steps are replays of a CUDA graph."""
        return self._graph is not None

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens[B] -> logits[B,V] of what follows. The next step may overwrite them. Raises ValueError when full."""
        if self._room < 1:
            raise ValueError("the KV cache is full: make it for more positions")
        self._room -= 1
        self._tokens.copy_(tokens.view(-1, 1))
        if not self.pays(self._model):
            return self._body()
        if self._graph is None:
            self._capture()
        assert self._graph is not None and self._logits is not None
        self._graph.replay()
        return self._logits

    def _body(self) -> torch.Tensor:
        logits = self._model(self._tokens, self._cache).squeeze(1)
        self._cache.advance()
        return logits

    def _capture(self) -> None:
        """Warm up beside the current stream, as captures ask for, then record the step. Recording runs nothing."""
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self._model(self._tokens, self._cache)  # writes this position again and again: the same numbers
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._body()
        self._graph = graph
