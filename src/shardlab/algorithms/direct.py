"""Direct exchange: every rank sends to all its peers at once. One step each, so the latency of one message.

one_shot all_reduce moves n-1 times the tensor; two_shot is two of these steps and moves what a ring moves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shardlab import comm
from shardlab.algorithms.parts import in_order, parts
from shardlab.comm.mesh import Axis


def all_reduce_one_shot(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A{X} -> A in 1 step: everybody gets everything, and adds it up in rank order."""
    received = tensor.new_empty(axis.size, *tensor.shape)
    terms: list[torch.Tensor] = list(received.unbind(0))
    terms[axis.rank] = tensor
    comm.exchange({peer: tensor for peer in peers(axis)}, {peer: terms[peer] for peer in peers(axis)}, axis)
    return in_order(terms)


def all_reduce_two_shot(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A{X} -> A in 2 steps: a rank adds up its own part, and then sends it to everybody."""
    total = torch.empty_like(tensor)
    shards = parts(total.view(-1), axis.size)
    _add_own_part(tensor.view(-1), axis, out=shards[axis.rank])
    _gather(shards, axis)
    return total


def reduce_scatter(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A[I, J]{X} -> A[I_X, J] in 1 step: part j goes to rank j, which adds up what it gets in rank order."""
    return _add_own_part(tensor, axis)


def all_gather(local: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A[I_X, J] -> A[I, J] in 1 step. Shards have equal shape, and land where they belong."""
    gathered = local.new_empty(axis.size * local.shape[0], *local.shape[1:])
    shards = parts(gathered, axis.size)
    comm.exchange({peer: local for peer in peers(axis)}, {peer: shards[peer] for peer in peers(axis)}, axis)
    shards[axis.rank].copy_(local)
    return gathered


def all_to_all(local: torch.Tensor, axis: Axis) -> torch.Tensor:
    """Part j of rank i -> part i of rank j, in 1 step. Dim 0 of the result is n times this rank's part."""
    leaving = parts(local, axis.size)
    received = local.new_empty(axis.size, *leaving[axis.rank].shape)
    arriving = received.unbind(0)
    comm.exchange({peer: leaving[peer] for peer in peers(axis)}, {peer: arriving[peer] for peer in peers(axis)}, axis)
    arriving[axis.rank].copy_(leaving[axis.rank])
    return received.flatten(0, 1)


def broadcast(tensor: torch.Tensor, axis: Axis, src: int = 0) -> torch.Tensor:
    """A on rank `src` -> A on every rank, in 1 step. The other ranks' tensors give shape and dtype."""
    held = tensor.clone()
    if axis.rank == src:
        comm.exchange({peer: held for peer in peers(axis)}, {}, axis)
    else:
        comm.exchange({}, {src: held}, axis)
    return held


def peers(axis: Axis) -> list[int]:
    """The other ranks of the axis, the next one first: not everybody starts with rank 0."""
    return [(axis.rank + step) % axis.size for step in range(1, axis.size)]


def _add_own_part(tensor: torch.Tensor, axis: Axis, out: torch.Tensor | None = None) -> torch.Tensor:
    leaving = parts(tensor, axis.size)
    own = leaving[axis.rank]
    terms: list[torch.Tensor] = list(tensor.new_empty(axis.size, *own.shape).unbind(0))
    terms[axis.rank] = own
    comm.exchange({peer: leaving[peer] for peer in peers(axis)}, {peer: terms[peer] for peer in peers(axis)}, axis)
    return in_order(terms, out)


def _gather(shards: Sequence[torch.Tensor], axis: Axis) -> None:
    """Everybody has its own shard; afterwards all of them."""
    own = shards[axis.rank]
    comm.exchange({peer: own for peer in peers(axis)}, {peer: shards[peer] for peer in peers(axis)}, axis)
