"""Rings: each rank talks to its two neighbours only, and every link carries the same load.

Patarasuk and Yuan 2009 (bandwidth optimal all-reduce); Thakur, Rabenseifner, Gropp 2005. The directions are gloo's:
sums travel to the predecessor, gathered shards to the successor, so that both put the same traffic on the wire.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shardlab import comm
from shardlab.algorithms.parts import parts
from shardlab.comm.mesh import Axis


def reduce_scatter(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A[I, J]{X} -> A[I_X, J] in n-1 steps. A partial sum goes round, and every rank adds what it has.

    The sum of part r sets out at r's predecessor and is complete when it reaches r: one order of addition for each
    part, whoever asks.
    """
    n, rank = axis.size, axis.rank
    mine = parts(tensor, n)
    running = mine[(rank + 1) % n]
    for step in range(2, n + 1):
        added = mine[(rank + step) % n]
        arriving = torch.empty_like(added)
        comm.exchange({(rank - 1) % n: running}, {(rank + 1) % n: arriving}, axis)
        running = arriving.add_(added)
    return running


def all_gather(local: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A[I_X, J] -> A[I, J] in n-1 steps. Shards of equal shape travel to the successor."""
    gathered = local.new_empty(axis.size * local.shape[0], *local.shape[1:])
    shards = parts(gathered, axis.size)
    shards[axis.rank].copy_(local)
    _pass_around(shards, axis, 1)
    return gathered


def all_reduce(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A{X} -> A in 2(n-1) steps: reduce_scatter, then its parts go round once more, to the predecessor again."""
    total = torch.empty_like(tensor)
    flat = parts(total.view(-1), axis.size)
    flat[axis.rank].copy_(reduce_scatter(tensor.view(-1), axis))
    _pass_around(flat, axis, -1)
    return total


def _pass_around(shards: Sequence[torch.Tensor], axis: Axis, way: int) -> None:
    """Every rank has its own shard; after n-1 steps it has them all. A step sends on what the last one brought."""
    n, rank = axis.size, axis.rank
    for step in range(n - 1):
        leaving, arriving = shards[(rank - way * step) % n], shards[(rank - way * (step + 1)) % n]
        comm.exchange({(rank + way) % n: leaving}, {(rank - way) % n: arriving}, axis)
