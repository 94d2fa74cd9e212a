"""torch.distributed's own collectives with the semantics of this package: any length, and the input left alone."""

from __future__ import annotations

import torch

from shardlab import comm
from shardlab.algorithms.parts import parts
from shardlab.comm.mesh import Axis


def all_reduce(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A{X} -> A."""
    return comm.all_reduce(tensor.clone(), axis)


def all_gather(local: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A[I_X, J] -> A[I, J]. Shards have equal shape."""
    return comm.all_gather(local, axis, dim=0)


def reduce_scatter_by_all_reduce(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A[I, J]{X} -> A[I_X, J], by the backend's reduce_scatter, which is an all_reduce on gloo."""
    even, length = _padded(tensor, axis)
    return comm.backend_reduce_scatter(even, axis)[:length]


def reduce_scatter_by_all_to_all(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A[I, J]{X} -> A[I_X, J], by the backend's all_to_all and a sum on each rank (on NCCL its reduce_scatter)."""
    even, length = _padded(tensor, axis)
    return comm.reduce_scatter(even, axis)[:length]


def all_to_all(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """Part j of rank i -> part i of rank j."""
    even, length = _padded(tensor, axis)
    received = comm.all_to_all(even, axis, split_dim=0, concat_dim=0)
    return received if even is tensor else torch.cat([part[:length] for part in received.chunk(axis.size)])


def broadcast(tensor: torch.Tensor, axis: Axis, src: int) -> torch.Tensor:
    """A on rank `src` -> A on every rank."""
    return comm.broadcast(tensor.clone(), axis, src)


def send(tensor: torch.Tensor, axis: Axis, src: int) -> torch.Tensor:
    """A on rank `src` -> A on the next rank; the others get their own back."""
    held, dst = tensor.clone(), (src + 1) % axis.size
    if axis.rank == src:
        comm.send(tensor, axis, dst)
    elif axis.rank == dst:
        comm.recv(held, axis, src)
    return held


def _padded(tensor: torch.Tensor, axis: Axis) -> tuple[torch.Tensor, int]:
    """(parts of equal length, one after the other, with zeros at the end of the short ones; this rank's own length).

    comm takes parts of equal length only. A tensor that divides comes back as it is.
    """
    mine = parts(tensor, axis.size)
    if len(mine[0]) == len(mine[-1]):
        return tensor, len(mine[0])
    even = tensor.new_zeros(axis.size, *mine[0].shape)
    for part, padded in zip(mine, even, strict=True):
        padded[: len(part)] = part
    return even.flatten(0, 1), len(mine[axis.rank])
