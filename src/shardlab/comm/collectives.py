"""The collectives, one after the other: the caller waits. comm.posted has those to post now and wait for later.

Each function takes the Axis to communicate on, records one Transfer, and returns at once on an axis of one rank. An
axis may carry its collectives itself (comm.carrier); the record is the same, but for the mark that no wire saw it.
Notation: A[I_X] is sharded on axis X along I; A{X} is a partial sum, still to be reduced over X.

Transfer.num_bytes is S of nccl-tests: the tensor for all_reduce and broadcast, the whole gathered result for
all_gather, a rank's whole input for reduce_scatter and all_to_all.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from shardlab.comm.calls import carrier_of, check_source, joined, recorded, route_of_peer, stacked_slices
from shardlab.comm.mesh import Axis
from shardlab.theory.traffic import Route

# torch 2.13 renamed these two; the labs also run under 2.11.
all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

# What gloo's ways of doing it put on the wire, where that is not the op's first algorithm in theory.collectives.
_BY_ALL_TO_ALL = Route(algorithm="one_shot")
_BY_ALL_REDUCE = Route(algorithm="all_reduce")


def all_reduce(partial: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A[I, J]{X} -> A[I, J]. The sum over the axis, on every rank.

    `partial` is consumed: the sum is written over it and returned (a copy is made only if it is not contiguous).
    """
    if axis.size == 1:
        return partial
    partial = partial.contiguous()
    carrier = carrier_of("all_reduce", axis, partial, partial.nbytes)
    with recorded("all_reduce", axis, partial, partial.nbytes, carrier=carrier):
        if carrier:
            carrier.all_reduce(partial)
        else:
            dist.all_reduce(partial, group=axis.group)
    return partial


def all_gather(local: torch.Tensor, axis: Axis, dim: int = -1) -> torch.Tensor:
    """A[I, J_X] -> A[I, J]. Shards of equal shape, concatenated along `dim` in axis order, on every rank."""
    if axis.size == 1:
        return local
    local = local.contiguous()
    gathered = local.new_empty(axis.size * local.numel())
    carrier = carrier_of("all_gather", axis, local, gathered.nbytes)
    with recorded("all_gather", axis, local, gathered.nbytes, carrier=carrier):
        if carrier:
            carrier.all_gather(gathered, local.view(-1))
        else:
            all_gather_single(gathered, local.view(-1), group=axis.group)
    return joined(gathered, local, axis, dim)


def reduce_scatter(partial: torch.Tensor, axis: Axis, dim: int = 0) -> torch.Tensor:
    """A[I, J]{X} -> A[I_X, J]. Each rank gets the sum of its own equal slice of `dim`.

    gloo's own reduce_scatter is a whole all_reduce and a slice: 2S(n-1)/n on the wire. On gloo this sends each rank
    its slices with one all_to_all and sums them there: S(n-1)/n, as the formula says.
    Raises ValueError when the axis does not divide `dim` (gloo would abort the process).
    """
    if axis.size == 1:
        return partial
    slices = stacked_slices(partial, axis, dim, "reduce_scatter")
    carrier = carrier_of("reduce_scatter", axis, partial, partial.nbytes)
    with recorded("reduce_scatter", axis, partial, partial.nbytes, _BY_ALL_TO_ALL, carrier):
        if carrier is None and slices.device.type == "cpu":  # gloo's, also in a group that has NCCL for GPU tensors
            received = torch.empty_like(slices)
            dist.all_to_all_single(received, slices, group=axis.group)
            return received.sum(0, dtype=received.dtype)  # a sum of whole numbers would otherwise be int64
        out = torch.empty_like(slices[0])
        if carrier:
            carrier.reduce_scatter(out, slices)
        else:
            _reduce_scatter_single(out, slices, group=axis.group)
        return out


def backend_reduce_scatter(partial: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A[I]{X} -> A[I_X], by torch.distributed's own reduce_scatter, for the lesson: use reduce_scatter.

    On gloo it is an all_reduce of everything and then a slice: 2S(n-1)/n on the wire, twice what it needs.
    Raises ValueError when the axis does not divide dim 0.
    """
    if axis.size == 1:
        return partial
    slices = stacked_slices(partial, axis, 0, "reduce_scatter")
    out = torch.empty_like(slices[0])
    with recorded("reduce_scatter", axis, partial, partial.nbytes, _BY_ALL_REDUCE):
        _reduce_scatter_single(out.view(-1), slices.view(-1), group=axis.group)
    return out


def all_to_all(local: torch.Tensor, axis: Axis, split_dim: int, concat_dim: int) -> torch.Tensor:
    """A[I, J_X] -> A[I_X, J] with split_dim I and concat_dim J. Slice j of `local` goes to rank j of the axis.

    Raises ValueError when the axis does not divide split_dim.
    """
    if axis.size == 1:
        return local
    slices = stacked_slices(local, axis, split_dim, "all_to_all")
    received = torch.empty_like(slices)
    carrier = carrier_of("all_to_all", axis, local, local.nbytes)
    with recorded("all_to_all", axis, local, local.nbytes, carrier=carrier):
        if carrier:
            carrier.all_to_all(received, slices)
        else:
            dist.all_to_all_single(received, slices, group=axis.group)
    return torch.cat(received.unbind(0), dim=concat_dim)


def broadcast(tensor: torch.Tensor, axis: Axis, src: int = 0) -> torch.Tensor:
    """A on rank `src` of the axis -> A on every rank. `tensor` is overwritten on the other ranks and returned."""
    check_source(axis, src)
    if axis.size == 1:
        return tensor
    tensor = tensor.contiguous()
    carrier = carrier_of("broadcast", axis, tensor, tensor.nbytes)
    with recorded("broadcast", axis, tensor, tensor.nbytes, carrier=carrier, route=route_of_peer(src)):
        if carrier:
            carrier.broadcast(tensor, src)
        else:
            dist.broadcast(tensor, src=axis.ranks[src], group=axis.group)
    return tensor


def barrier(axis: Axis) -> None:
    """Wait until every rank of the axis is here. Carries no payload, so it records no Transfer."""
    if axis.size == 1:
        return
    with axis.recorder.collective("barrier", axis.name, axis.ranks, "", 0):
        dist.barrier(group=axis.group)
