"""The collectives: the only place that calls torch.distributed's.

Each function takes the Axis to communicate on, records one Transfer, and returns at once on an axis of one rank. An
axis may carry its collectives itself (comm.carrier); the record is the same, but for the mark that no wire saw it.
Notation: A[I_X] is sharded on axis X along I; A{X} is a partial sum, still to be reduced over X.

Transfer.num_bytes is S of nccl-tests: the tensor for all_reduce and broadcast, the whole gathered result for
all_gather, a rank's whole input for reduce_scatter and all_to_all, the tensor for send and recv.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
import torch.distributed as dist

from shardlab.comm.carrier import Carrier
from shardlab.comm.mesh import Axis
from shardlab.theory.ledger import Transfer
from shardlab.theory.traffic import NO_WIRE

# torch 2.13 renamed these two; the labs also run under 2.11.
_all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def all_reduce(partial: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A[I, J]{X} -> A[I, J]. The sum over the axis, on every rank.

    `partial` is consumed: the sum is written over it and returned (a copy is made only if it is not contiguous).
    """
    if axis.size == 1:
        return partial
    partial = partial.contiguous()
    carrier = _carrier("all_reduce", axis, partial, partial.nbytes)
    with _recorded("all_reduce", axis, partial, partial.nbytes, carrier):
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
    carrier = _carrier("all_gather", axis, local, gathered.nbytes)
    with _recorded("all_gather", axis, local, gathered.nbytes, carrier):
        if carrier:
            carrier.all_gather(gathered, local.view(-1))
        else:
            _all_gather_single(gathered, local.view(-1), group=axis.group)
    if local.dim() and dim in (0, -local.dim()):  # they came in this order
        return gathered.view(axis.size * local.shape[0], *local.shape[1:])
    return torch.cat(gathered.view(axis.size, *local.shape).unbind(0), dim=dim)


def reduce_scatter(partial: torch.Tensor, axis: Axis, dim: int = 0) -> torch.Tensor:
    """A[I, J]{X} -> A[I_X, J]. Each rank gets the sum of its own equal slice of `dim`.

    gloo's own reduce_scatter is a whole all_reduce and a slice: 2S(n-1)/n on the wire. On gloo this sends each rank
    its slices with one all_to_all and sums them there: S(n-1)/n, as the formula says.
    Raises ValueError when the axis does not divide `dim` (gloo would abort the process).
    """
    if axis.size == 1:
        return partial
    slices = _stacked_slices(partial, axis, dim, "reduce_scatter")
    carrier = _carrier("reduce_scatter", axis, partial, partial.nbytes)
    with _recorded("reduce_scatter", axis, partial, partial.nbytes, carrier):
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
    slices = _stacked_slices(partial, axis, 0, "reduce_scatter")
    out = torch.empty_like(slices[0])
    with _recorded("reduce_scatter", axis, partial, partial.nbytes):
        _reduce_scatter_single(out.view(-1), slices.view(-1), group=axis.group)
    return out


def all_to_all(local: torch.Tensor, axis: Axis, split_dim: int, concat_dim: int) -> torch.Tensor:
    """A[I, J_X] -> A[I_X, J] with split_dim I and concat_dim J. Slice j of `local` goes to rank j of the axis.

    Raises ValueError when the axis does not divide split_dim.
    """
    if axis.size == 1:
        return local
    slices = _stacked_slices(local, axis, split_dim, "all_to_all")
    received = torch.empty_like(slices)
    carrier = _carrier("all_to_all", axis, local, local.nbytes)
    with _recorded("all_to_all", axis, local, local.nbytes, carrier):
        if carrier:
            carrier.all_to_all(received, slices)
        else:
            dist.all_to_all_single(received, slices, group=axis.group)
    return torch.cat(received.unbind(0), dim=concat_dim)


def broadcast(tensor: torch.Tensor, axis: Axis, src: int = 0) -> torch.Tensor:
    """A on rank `src` of the axis -> A on every rank. `tensor` is overwritten on the other ranks and returned."""
    if not 0 <= src < axis.size:
        raise ValueError(f"src={src} is not on the {axis.name} axis of {axis.size} ranks (0..{axis.size - 1})")
    if axis.size == 1:
        return tensor
    tensor = tensor.contiguous()
    carrier = _carrier("broadcast", axis, tensor, tensor.nbytes)
    with _recorded("broadcast", axis, tensor, tensor.nbytes, carrier):
        if carrier:
            carrier.broadcast(tensor, src)
        else:
            dist.broadcast(tensor, src=axis.ranks[src], group=axis.group)
    return tensor


def send(tensor: torch.Tensor, axis: Axis, dst: int) -> None:
    """Send to rank `dst` of the axis. Blocks until the tensor may be reused."""
    tensor = tensor.contiguous()
    with _recorded("send", axis, tensor, tensor.nbytes):
        dist.send(tensor, dst=axis.ranks[dst], group=axis.group)


def recv(tensor: torch.Tensor, axis: Axis, src: int) -> torch.Tensor:
    """Receive into `tensor` from rank `src` of the axis, and return it. The sender records the bytes."""
    with _recorded("recv", axis, tensor, 0):
        dist.recv(tensor, src=axis.ranks[src], group=axis.group)
    return tensor


def exchange(sends: Mapping[int, torch.Tensor], recvs: Mapping[int, torch.Tensor], axis: Axis) -> None:
    """Send a tensor to some ranks of the axis and receive one from others, all at once; wait for all of it.

    `sends` and `recvs` are {rank of the axis: contiguous tensor}; what is received is written into the tensors of
    `recvs`. A pair agrees on the length beforehand; an empty tensor is not sent. The step that textbook algorithms
    are made of. Records a Transfer("send") for each tensor sent; their seconds are those of the whole step.
    Raises ValueError for a rank that is no peer, and for a tensor that is not contiguous.
    """
    outgoing = {rank: tensor for rank, tensor in sends.items() if tensor.numel()}
    incoming = {rank: tensor for rank, tensor in recvs.items() if tensor.numel()}
    if not outgoing and not incoming:
        return
    for rank, tensor in (*outgoing.items(), *incoming.items()):
        if rank == axis.rank or not 0 <= rank < axis.size:
            raise ValueError(f"exchange with rank {rank}: allowed: 0..{axis.size - 1} but for {axis.rank}, this rank")
        if not tensor.is_contiguous():
            raise ValueError(f"exchange with rank {rank}: shape {tuple(tensor.shape)} is not contiguous")
    on_cpu = all(tensor.device.type == "cpu" for tensor in (*outgoing.values(), *incoming.values()))
    detail = f"to {list(outgoing)} from {list(incoming)}"
    started = time.perf_counter()
    with axis.recorder.collective("exchange", axis.name, axis.ranks, detail, 0):
        posted = [(dist.irecv, rank, tensor) for rank, tensor in incoming.items()]
        posted += [(dist.isend, rank, tensor) for rank, tensor in outgoing.items()]
        if on_cpu:  # gloo posts them one by one, and half a batch's time would go into making it
            requests = [post(tensor, axis.ranks[rank], axis.group) for post, rank, tensor in posted]
        else:  # one launch on NCCL: single sends that wait for each other's receives would hang
            requests = dist.batch_isend_irecv(
                [dist.P2POp(post, tensor, axis.ranks[rank], axis.group) for post, rank, tensor in posted]
            )
        for request in requests:
            assert request is not None, "this rank is on the axis"
            request.wait()
    seconds = time.perf_counter() - started if on_cpu else None
    axis.recorder.transfers += [Transfer("send", axis.name, tensor.nbytes, seconds) for tensor in outgoing.values()]


def barrier(axis: Axis) -> None:
    """Wait until every rank of the axis is here. Carries no payload, so it records no Transfer."""
    if axis.size == 1:
        return
    with axis.recorder.collective("barrier", axis.name, axis.ranks, "", 0):
        dist.barrier(group=axis.group)


def _carrier(op: str, axis: Axis, tensor: torch.Tensor, num_bytes: int) -> Carrier | None:
    """What runs this call of `op` in the backend's place: the axis's carrier, where it takes it."""
    carrier = axis.carrier
    return carrier if carrier is not None and carrier.takes(op, num_bytes, tensor) else None


def _recorded(op: str, axis: Axis, tensor: torch.Tensor, num_bytes: int, carrier: Carrier | None = None):
    detail = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
    if carrier is not None:  # a rank that waits in the backend and one that waits in memory would never meet
        detail += " in memory"
    on_cpu = tensor.device.type == "cpu"
    route = None if carrier is None else NO_WIRE
    return axis.recorder.collective(op, axis.name, axis.ranks, detail, num_bytes, clocked=on_cpu, route=route)


def _stacked_slices(tensor: torch.Tensor, axis: Axis, dim: int, op: str) -> torch.Tensor:
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
