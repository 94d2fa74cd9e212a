"""The collectives over shared memory as calls of their own: a new tensor, recorded as one Transfer of the op.

Not on the wire, so the Transfer says that it has none. What moves where is in moves.py.
"""

from __future__ import annotations

import torch

from shardlab.algorithms import moves
from shardlab.algorithms.parts import parts
from shardlab.algorithms.shared_memory import SharedMemory
from shardlab.theory.traffic import NO_WIRE


def all_reduce_one_shot(tensor: torch.Tensor, shared: SharedMemory) -> torch.Tensor:
    """A{X} -> A with one barrier."""
    total = torch.empty_like(tensor)
    with _recorded("all_reduce", tensor, shared, tensor.nbytes):
        moves.all_reduce_one_shot(total, tensor, shared)
    return total


def all_reduce_two_shot(tensor: torch.Tensor, shared: SharedMemory, out: torch.Tensor | None = None) -> torch.Tensor:
    """A{X} -> A with two barriers. `out`: a contiguous tensor of the same shape and dtype; `tensor` itself will do."""
    total = torch.empty_like(tensor) if out is None else out
    with _recorded("all_reduce", tensor, shared, tensor.nbytes):
        moves.all_reduce_two_shot(total, tensor, shared)
    return total


def reduce_scatter(tensor: torch.Tensor, shared: SharedMemory) -> torch.Tensor:
    """A[I, J]{X} -> A[I_X, J] with one barrier."""
    out = torch.empty_like(parts(tensor, shared.axis.size)[shared.axis.rank])
    with _recorded("reduce_scatter", tensor, shared, tensor.nbytes):
        moves.reduce_scatter(out, tensor, shared)
    return out


def all_gather(local: torch.Tensor, shared: SharedMemory) -> torch.Tensor:
    """A[I_X, J] -> A[I, J] with one barrier. Shards have equal shape."""
    gathered = local.new_empty(shared.axis.size * local.shape[0], *local.shape[1:])
    with _recorded("all_gather", local, shared, gathered.nbytes):
        moves.all_gather(gathered, local, shared)
    return gathered


def all_to_all(local: torch.Tensor, shared: SharedMemory) -> torch.Tensor:
    """Part j of rank i -> part i of rank j, with one barrier. Dim 0 of the result is n times this rank's part."""
    own = parts(local, shared.axis.size)[shared.axis.rank]
    received = local.new_empty(shared.axis.size, *own.shape)
    with _recorded("all_to_all", local, shared, local.nbytes):
        moves.all_to_all(received, local, shared)
    return received.flatten(0, 1)


def broadcast(tensor: torch.Tensor, shared: SharedMemory, src: int = 0) -> torch.Tensor:
    """A on rank `src` -> A on every rank, with one barrier. The other ranks' tensors give shape and dtype."""
    held = tensor.clone()
    with _recorded("broadcast", tensor, shared, tensor.nbytes):
        moves.from_one(held, tensor, shared, src, range(shared.axis.size))
    return held


def send(tensor: torch.Tensor, shared: SharedMemory, src: int) -> torch.Tensor:
    """A on rank `src` -> A on the next rank; the others get their own back. Every rank of the axis calls it."""
    held = tensor.clone()
    with _recorded("send", tensor, shared, tensor.nbytes if shared.axis.rank == src else 0):
        moves.from_one(held, tensor, shared, src, ((src + 1) % shared.axis.size,))
    return held


def _recorded(op: str, tensor: torch.Tensor, shared: SharedMemory, num_bytes: int):
    axis = shared.axis
    # Not the words that comm uses: a rank that waits in gloo and one that waits here will never meet.
    detail = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} in shared memory"
    return axis.recorder.collective(op, axis.name, axis.ranks, detail, num_bytes, route=NO_WIRE)
