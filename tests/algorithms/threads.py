"""Ranks that are threads, and a wire that is a queue a pair: the algorithms of send and recv, without processes.

The wire counts bytes from rank to rank. Each rank has a clock that every exchange puts one forward, and that never
runs behind the clocks of those it heard from: at the end the largest clock is the number of steps that had to follow
one another (Lamport 1978).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from shardlab import comm
from shardlab.comm.mesh import Axis
from shardlab.comm.recorder import Recorder

_PATIENCE_S = 20


@dataclass
class Wire:
    """What one run put on the wire, and each rank's result."""

    size: int
    results: list[Any] = field(default_factory=list)
    sent: list[list[int]] = field(default_factory=list)
    clocks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.results = [None] * self.size
        self.sent = [[0] * self.size for _ in range(self.size)]
        self.clocks = [0] * self.size
        self.pairs = {(a, b): queue.Queue() for a in range(self.size) for b in range(self.size)}

    def exchange(self, sends: Mapping[int, torch.Tensor], recvs: Mapping[int, torch.Tensor], axis: Axis) -> None:
        self.clocks[axis.rank] += 1
        for peer, tensor in sends.items():
            assert peer != axis.rank and tensor.is_contiguous()
            self.sent[axis.rank][peer] += tensor.nbytes
            self.pairs[axis.rank, peer].put((self.clocks[axis.rank], tensor.clone()))
        for peer, tensor in recvs.items():
            assert peer != axis.rank and tensor.is_contiguous()
            clock, arrived = self.pairs[peer, axis.rank].get(timeout=_PATIENCE_S)
            assert (arrived.shape, arrived.dtype) == (tensor.shape, tensor.dtype)
            tensor.copy_(arrived)
            self.clocks[axis.rank] = max(self.clocks[axis.rank], clock)


def on_threads(size: int, program: Callable[[Axis], Any]) -> Wire:
    """`program(axis)` on `size` ranks at once. Raises what a rank raised."""
    wire = Wire(size)
    errors: list[BaseException] = []

    def one(rank: int) -> None:
        axis = Axis("tp", rank, size, tuple(range(size)), None, Recorder())
        try:
            wire.results[rank] = program(axis)
        except BaseException as error:
            errors.append(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comm, "exchange", wire.exchange)
        ranks = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
    if errors:
        raise errors[0]
    assert all(pair.empty() for pair in wire.pairs.values()), "something was sent that nobody received"
    return wire
