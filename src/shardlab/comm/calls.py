"""What the operations of comm have in common: how a call is recorded, which ranks it takes, how a tensor is cut."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

import torch

from shardlab.comm.carrier import Carrier
from shardlab.comm.mesh import Axis
from shardlab.theory.traffic import NO_WIRE, Route


@cache
def route_of_peer(rank: int) -> Route:
    """To or from that rank of the axis."""
    return Route(peer=rank)


def carrier_of(op: str, axis: Axis, tensor: torch.Tensor, num_bytes: int) -> Carrier | None:
    """What runs this call of `op` in the backend's place: the axis's carrier, where it takes it."""
    carrier = axis.carrier
    return carrier if carrier is not None and carrier.takes(op, num_bytes, tensor) else None


def recorded(
    op: str,
    axis: Axis,
    tensor: torch.Tensor,
    num_bytes: int,
    route: Route | None = None,
    carrier: Carrier | None = None,
) -> AbstractContextManager[None]:
    """The recorder's context for one blocking call on `tensor`, which the backend runs or the axis's carrier."""
    on_cpu, detail = tensor.device.type == "cpu", described(tensor)
    if carrier is not None:  # a rank that waits in the backend and one that waits in memory would never meet
        detail += " in memory"
    route = route if on_cpu and carrier is None else NO_WIRE
    return axis.recorder.collective(op, axis.name, axis.ranks, detail, num_bytes, clocked=on_cpu, route=route)


def described(tensor: torch.Tensor) -> str:
    """`(2, 3) float32`: what all ranks of a collective must have alike."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def check_source(axis: Axis, src: int) -> None:
    """Raises ValueError where `src` is not on the axis."""
    if not 0 <= src < axis.size:
        raise ValueError(f"src={src} is not on the {axis.name} axis of {axis.size} ranks (0..{axis.size - 1})")


def check_peer(what: str, axis: Axis, rank: int) -> None:
    """Raises ValueError where `rank` is not on the axis, or is this rank."""
    if rank != axis.rank and 0 <= rank < axis.size:
        return
    others = [str(other) for other in range(axis.size) if other != axis.rank]
    works = f"rank {' or '.join(others)} works" if others else "it has no other rank"
    raise ValueError(f"{what}{rank} on the {axis.name} axis, where this is rank {axis.rank} of {axis.size}: {works}")


def stacked_slices(tensor: torch.Tensor, axis: Axis, dim: int, op: str) -> torch.Tensor:
    """A[I, J] -> [n, I/n, J] with dim I: slice j at [j], contiguous; a view where the slices lie in order already."""
    length = tensor.shape[dim]
    if length % axis.size:
        raise ValueError(
            f"{op}: dim {dim} of shape {tuple(tensor.shape)} is {length}, which the {axis.size} ranks of the "
            f"{axis.name} axis do not divide; the next lengths that work are "
            f"{length - length % axis.size} and {length - length % axis.size + axis.size}"
        )
    if tensor.is_contiguous() and dim in (0, -tensor.dim()):
        return tensor.view(axis.size, length // axis.size, *tensor.shape[1:])
    return torch.stack(tensor.chunk(axis.size, dim=dim))


def joined(gathered: torch.Tensor, local: torch.Tensor, axis: Axis, dim: int) -> torch.Tensor:
    """[n * numel], the shards one after the other -> A[I, J], shards of local's shape side by side along `dim`."""
    if local.dim() and dim in (0, -local.dim()):  # they came in this order
        return gathered.view(axis.size * local.shape[0], *local.shape[1:])
    return torch.cat(gathered.view(axis.size, *local.shape).unbind(0), dim=dim)
