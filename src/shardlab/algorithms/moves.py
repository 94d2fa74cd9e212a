"""The collectives over shared memory: put what others need into your slot, meet at the barrier, take what you need.

"Send to everybody" costs one copy here, whatever the number of ranks. What is read of one's own tensor is read where
it is. Each function writes its result over its first argument, a contiguous tensor in the dtype of the second, and
takes any length; parts are those of theory.split.even_split along dim 0. No call makes more than a few tensor
operations, so many ranks on few cores wait for the barrier and not for Python. Nothing is recorded: comm does that, or
over_shared_memory. Gradients do not pass: what requires them is read and written detached.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from shardlab.algorithms.parts import in_order
from shardlab.algorithms.shared_memory import SharedMemory
from shardlab.theory.split import even_split

_FEW = 4  # rows up to which adding one after the other is faster than torch's sum over them, most of all in bf16


def all_reduce_one_shot(out: torch.Tensor, tensor: torch.Tensor, shared: SharedMemory) -> None:
    """A{X} -> A with one barrier: everybody adds up everything, in one way. `out` may be `tensor`."""
    flat = _flat(tensor)
    slots, mine = shared.begin(flat.dtype, len(flat))
    _put(mine, flat, shared)
    shared.barrier()
    _add_up(slots, flat if out is tensor else _flat(out))
    shared.moved_bytes += (shared.axis.size - 1) * tensor.nbytes


def all_reduce_two_shot(out: torch.Tensor, tensor: torch.Tensor, shared: SharedMemory) -> None:
    """A{X} -> A with two barriers: a rank adds up its own part, then all read the parts. `out` may be `tensor`."""
    flat = _flat(tensor)
    own = even_split(len(flat), shared.axis.size)[shared.axis.rank]
    slots, mine = shared.begin(flat.dtype, len(flat))
    _put_for_peers(mine, flat, own, shared)
    shared.barrier()
    own_sum = mine[own.start : own.stop]  # not in `out`, which may be the tensor that is still to be added
    _add_own_part(own_sum, slots, flat, own, shared)
    shared.moved_bytes += own_sum.nbytes
    shared.barrier()
    _take_diagonal(_flat(out), slots)
    shared.moved_bytes += tensor.nbytes - own_sum.nbytes


def reduce_scatter(out: torch.Tensor, tensor: torch.Tensor, shared: SharedMemory) -> None:
    """A[I, J]{X} -> A[I_X, J] with one barrier: a rank reads its own part of every slot."""
    flat, own = _flat(tensor), _own_elements(tensor, shared)
    slots, mine = shared.begin(flat.dtype, len(flat))
    _put_for_peers(mine, flat, own, shared)
    shared.barrier()
    _add_own_part(_flat(out), slots, flat, own, shared)


def all_gather(gathered: torch.Tensor, local: torch.Tensor, shared: SharedMemory) -> None:
    """A[I_X, J] -> A[I, J] with one barrier. Shards have equal shape."""
    flat = _flat(local)
    slots, mine = shared.begin(flat.dtype, len(flat))
    _put(mine, flat, shared)
    shared.barrier()
    gathered.view(slots.shape).copy_(slots)
    shared.moved_bytes += (shared.axis.size - 1) * local.nbytes


def all_to_all(received: torch.Tensor, local: torch.Tensor, shared: SharedMemory) -> None:
    """Part j of rank i -> part i of rank j, with one barrier. received[T, ...]: from every rank this rank's part."""
    rank, own = shared.axis.rank, _own_elements(local, shared)
    flat, into = _flat(local), received.view(shared.axis.size, len(own))
    slots, mine = shared.begin(flat.dtype, len(flat))
    _put_for_peers(mine, flat, own, shared)
    into[rank].copy_(flat[own.start : own.stop])
    shared.barrier()
    for peers in _peers(shared):
        into[peers].copy_(slots[peers, own.start : own.stop])
    shared.moved_bytes += received.nbytes - into[rank].nbytes


def from_one(
    held: torch.Tensor, tensor: torch.Tensor, shared: SharedMemory, src: int, receivers: Collection[int]
) -> None:
    """A on rank `src` -> A on `receivers`, with one barrier. Every rank calls it; `held` may be `tensor`."""
    flat = _flat(tensor)
    slots, mine = shared.begin(flat.dtype, len(flat))
    if shared.axis.rank == src:
        _put(mine, flat, shared)
    shared.barrier()
    if shared.axis.rank != src and shared.axis.rank in receivers:
        _flat(held).copy_(slots[src])
        shared.moved_bytes += held.nbytes


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """[...] -> [n], the same memory, and no graph: a slot that belonged to one would keep it alive."""
    flat = tensor.view(-1)
    return flat.detach() if flat.requires_grad else flat


def _own_elements(tensor: torch.Tensor, shared: SharedMemory) -> range:
    """Where this rank's part of dim 0 lies in tensor.view(-1)."""
    rows = even_split(tensor.shape[0], shared.axis.size)[shared.axis.rank]
    row = tensor[:1].numel()
    return range(rows.start * row, rows.stop * row)


def _peers(shared: SharedMemory) -> tuple[slice, ...]:
    """The ranks before this one, and those after it."""
    rank, size = shared.axis.rank, shared.axis.size
    return tuple(slice(*ends) for ends in ((0, rank), (rank + 1, size)) if ends[0] < ends[1])


def _put(slot: torch.Tensor, tensor: torch.Tensor, shared: SharedMemory) -> None:
    """Copy what peers will read into this rank's slot."""
    slot.copy_(tensor)
    shared.moved_bytes += slot.nbytes


def _put_for_peers(slot: torch.Tensor, flat: torch.Tensor, own: range, shared: SharedMemory) -> None:
    """All but this rank's own part, which stays where it is."""
    for start, stop in ((0, own.start), (own.stop, len(flat))):
        if start < stop:
            _put(slot[start:stop], flat[start:stop], shared)


def _add_up(slots: torch.Tensor, out: torch.Tensor) -> None:
    """slots[T, n] -> out[n]: one way for all ranks, so that all get the same bits."""
    if len(slots) <= _FEW:
        in_order(slots.unbind(0), out)
    else:
        torch.sum(slots, 0, dtype=out.dtype, out=out)


def _add_own_part(out: torch.Tensor, slots: torch.Tensor, flat: torch.Tensor, own: range, shared: SharedMemory) -> None:
    """The sum of everybody's part `own`: of the peers' slots, and of this rank's own tensor."""
    terms = [flat[own.start : own.stop]]
    for peers in _peers(shared):
        rows = slots[peers, own.start : own.stop]
        terms += rows.unbind(0) if len(rows) <= _FEW else [rows.sum(0, dtype=rows.dtype)]
    in_order(terms, out)
    shared.moved_bytes += (shared.axis.size - 1) * out.nbytes


def _take_diagonal(out: torch.Tensor, slots: torch.Tensor) -> None:
    """Part p of slot p -> part p of out[n], for all p: one copy of the longer parts, one of the shorter ones."""
    (size, length), stride, at = slots.shape, slots.stride(0), slots.storage_offset()
    short, num_long = divmod(length, size)
    split = num_long * (short + 1)
    for count, each, start in ((num_long, short + 1, 0), (size - num_long, short, split)):
        if count and each:
            first = at + (0 if start == 0 else num_long * stride + start)
            parts = slots.as_strided((count, each), (stride + each, 1), first)
            out[start : start + count * each].view(count, each).copy_(parts)
