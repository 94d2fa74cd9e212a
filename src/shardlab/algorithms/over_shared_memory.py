"""The collectives over shared memory: put what others need into your slot, meet at the barrier, take what you need.

"Send to everybody" costs one copy here, whatever the number of ranks. What is read of one's own tensor is read where
it is, and never copied. Each call is recorded as its op, with comm's number of bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from shardlab.algorithms.parts import in_order, parts
from shardlab.algorithms.shared_memory import SharedMemory, Slots
from shardlab.theory.traffic import NO_WIRE


def all_reduce_one_shot(tensor: torch.Tensor, shared: SharedMemory) -> torch.Tensor:
    """A{X} -> A with one barrier: everybody reads everything, and adds it up in rank order."""
    flat = tensor.view(-1)
    with _recorded("all_reduce", tensor, shared):
        slots = shared.begin(tensor.dtype, (tensor.numel(),))
        _put(slots[shared.axis.rank][0], flat, shared)
        shared.barrier()
        return _total(slots, 0, flat, shared).view(tensor.shape)


def all_reduce_two_shot(tensor: torch.Tensor, shared: SharedMemory, out: torch.Tensor | None = None) -> torch.Tensor:
    """A{X} -> A with two barriers: a rank adds up its own part, then everybody reads the parts.

    `out`: a contiguous tensor of the same shape and dtype for the result; `tensor` itself will do.
    """
    rank = shared.axis.rank
    total = torch.empty_like(tensor) if out is None else out
    mine, sums = parts(tensor.view(-1), shared.axis.size), parts(total.view(-1), shared.axis.size)
    with _recorded("all_reduce", tensor, shared):
        slots = shared.begin(tensor.dtype, tuple(map(len, mine)))
        _put_for_peers(slots[rank], mine, shared)
        shared.barrier()
        own_sum = slots[rank][rank]  # not in `out`, which may be the tensor that is still to be added
        _total(slots, rank, mine[rank], shared, out=own_sum)
        shared.moved_bytes += own_sum.nbytes
        shared.barrier()
        for peer in shared.peers:
            _take(sums[peer], slots[peer][peer], shared)
        sums[rank].copy_(own_sum)
    return total


def reduce_scatter(tensor: torch.Tensor, shared: SharedMemory) -> torch.Tensor:
    """A[I, J]{X} -> A[I_X, J] with one barrier: a rank reads its own part of every slot."""
    rank, cut = shared.axis.rank, parts(tensor, shared.axis.size)
    mine = [part.view(-1) for part in cut]
    with _recorded("reduce_scatter", tensor, shared):
        slots = shared.begin(tensor.dtype, tuple(map(len, mine)))
        _put_for_peers(slots[rank], mine, shared)
        shared.barrier()
        return _total(slots, rank, mine[rank], shared).view(cut[rank].shape)


def all_gather(local: torch.Tensor, shared: SharedMemory) -> torch.Tensor:
    """A[I_X, J] -> A[I, J] with one barrier. Shards have equal shape."""
    axis = shared.axis
    gathered = local.new_empty(axis.size * local.shape[0], *local.shape[1:])
    shards = gathered.view(axis.size, -1) if local.numel() else gathered.view(axis.size, 0)
    with _recorded("all_gather", local, shared, gathered.nbytes):
        slots = shared.begin(local.dtype, (local.numel(),))
        _put(slots[axis.rank][0], local.view(-1), shared)
        shards[axis.rank].copy_(local.view(-1))
        shared.barrier()
        for peer in shared.peers:
            _take(shards[peer], slots[peer][0], shared)
    return gathered


def all_to_all(local: torch.Tensor, shared: SharedMemory) -> torch.Tensor:
    """Part j of rank i -> part i of rank j, with one barrier. Dim 0 of the result is n times this rank's part."""
    axis, rank = shared.axis, shared.axis.rank
    leaving = parts(local, axis.size)
    mine = [part.view(-1) for part in leaving]
    received = local.new_empty(axis.size, *leaving[rank].shape)
    with _recorded("all_to_all", local, shared):
        slots = shared.begin(local.dtype, tuple(map(len, mine)))
        _put_for_peers(slots[rank], mine, shared)
        received[rank].copy_(leaving[rank])
        shared.barrier()
        for peer in shared.peers:
            _take(received[peer].view(-1), slots[peer][rank], shared)
    return received.flatten(0, 1)


def broadcast(tensor: torch.Tensor, shared: SharedMemory, src: int = 0) -> torch.Tensor:
    """A on rank `src` -> A on every rank, with one barrier. The other ranks' tensors give shape and dtype."""
    return _from_one("broadcast", tensor, shared, src, range(shared.axis.size))


def send(tensor: torch.Tensor, shared: SharedMemory, src: int) -> torch.Tensor:
    """A on rank `src` -> A on the next rank; the others get their own back. Every rank of the axis calls it."""
    return _from_one("send", tensor, shared, src, ((src + 1) % shared.axis.size,))


def _from_one(
    op: str, tensor: torch.Tensor, shared: SharedMemory, src: int, receivers: Collection[int]
) -> torch.Tensor:
    rank = shared.axis.rank
    held = tensor.clone()
    with _recorded(op, tensor, shared, tensor.nbytes if op == "broadcast" or rank == src else 0):
        slots = shared.begin(tensor.dtype, (tensor.numel(),))
        if rank == src:
            _put(slots[src][0], tensor.view(-1), shared)
        shared.barrier()
        if rank != src and rank in receivers:
            _take(held.view(-1), slots[src][0], shared)
    return held


def _put(slot: torch.Tensor, tensor: torch.Tensor, shared: SharedMemory) -> None:
    """Copy what peers will read into this rank's slot."""
    slot.copy_(tensor)
    shared.moved_bytes += slot.nbytes


def _put_for_peers(slot: tuple[torch.Tensor, ...], mine: Sequence[torch.Tensor], shared: SharedMemory) -> None:
    """Part j is for rank j; this rank's own part stays where it is."""
    for peer in shared.peers:
        _put(slot[peer], mine[peer], shared)


def _take(out: torch.Tensor, slot: torch.Tensor, shared: SharedMemory) -> None:
    """Copy from a peer's slot."""
    out.copy_(slot)
    shared.moved_bytes += slot.nbytes


def _total(
    slots: Slots, part: int, own: torch.Tensor, shared: SharedMemory, out: torch.Tensor | None = None
) -> torch.Tensor:
    """The sum of everybody's `part`, in rank order: of the peers' slots, and of this rank's own tensor."""
    terms = [slot[part] for slot in slots]
    terms[shared.axis.rank] = own
    shared.moved_bytes += len(shared.peers) * own.nbytes
    return in_order(terms, out)


def _recorded(op: str, tensor: torch.Tensor, shared: SharedMemory, num_bytes: int | None = None):
    axis, size = shared.axis, tensor.nbytes if num_bytes is None else num_bytes
    # Not the words that comm uses: a rank that waits in gloo and one that waits here will never meet.
    detail = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} in shared memory"
    return axis.recorder.collective(op, axis.name, axis.ranks, detail, size, route=NO_WIRE)
