"""How an axis of real ranks gets the memory that shardlab_kernels' communicating kernels work on.

On a CPU, where the kernels are interpreted, it is an unnamed piece of memory that all ranks of the host map. On GPUs it
is torch's symmetric memory, which maps every rank's allocation into every process over NVLink; it needs torch's own
process group, which is why this file may touch torch.distributed. That path has not been run: it was written against
torch 2.13's source, without a GPU. It uses three calls (empty, rendezvous, get_remote_tensor) and none of torch's
signal pads, which have a fixed size and are torch's own barriers' too.
"""

from __future__ import annotations

import mmap

import torch

from shardlab.algorithms import memfd
from shardlab.comm.mesh import Axis
from shardlab_kernels.symmetric_memory import MAX_BLOCKS, SymmetricMemory, rank_bytes

_HEAD = mmap.PAGESIZE  # memfd.share keeps its token in the first bytes


def symmetric_memory(
    axis: Axis, num_bytes: int, device: torch.device | str = "cpu", num_blocks: int = MAX_BLOCKS
) -> SymmetricMemory:
    """Memory of all ranks of the axis, for kernels whose message is at most `num_bytes` a rank. Collective.

    A rank owns 2 * num_bytes, rounded up to 16384 * num_blocks, and its signal pads. It goes when the result and all
    tensors that view it have gone. Raises ValueError for sizes; RuntimeError, on every rank, where CPU ranks are not on
    one Linux host; torch's error where GPUs cannot reach each other.
    """
    if num_bytes < 0 or num_blocks < 1:
        raise ValueError(f"num_bytes={num_bytes}, num_blocks={num_blocks}: positive numbers are needed")
    device = torch.device(device)
    size = rank_bytes(num_bytes, axis.size, num_blocks)
    bases, own, owner = _mapped(axis, size) if device.type == "cpu" else _rendezvous(axis, size, device)
    return SymmetricMemory(axis.rank, bases, own, num_bytes, num_blocks, stacked=False, owner=owner)


def _mapped(axis: Axis, size: int) -> tuple[list[int], torch.Tensor, object]:
    """Address of each rank's block in this process; uint8[1, size], this rank's; what to keep. All zero."""
    fine, why = memfd.available()
    if not fine:
        raise RuntimeError(why)
    total = _HEAD + axis.size * size
    memory = memfd.share(axis, total) if axis.size > 1 else mmap.mmap(-1, total)
    blocks = torch.frombuffer(memory, dtype=torch.uint8)[_HEAD:].view(axis.size, size)
    return [block.data_ptr() for block in blocks], blocks[axis.rank : axis.rank + 1], memory


def _rendezvous(axis: Axis, size: int, device: torch.device) -> tuple[list[int], torch.Tensor, object]:
    """The same from torch's symmetric memory. Its handle holds the peers' memory in this process."""
    if axis.group is None:
        own = torch.zeros(1, size, dtype=torch.uint8, device=device)
        return [own.data_ptr()], own, None
    import torch.distributed._symmetric_memory as torch_symmetric_memory

    own = torch_symmetric_memory.empty(1, size, dtype=torch.uint8, device=device)
    own.zero_()
    torch.cuda.synchronize(device)  # no peer leaves the rendezvous before all have come, with zeroed pads
    handle = torch_symmetric_memory.rendezvous(own, axis.group)
    # Not handle.buffer_ptrs: `own` may come from a memory pool, and begin at an offset in its allocation.
    peers = [handle.get_remote_tensor(rank, own.shape, own.dtype) for rank in range(axis.size)]
    return [peer.data_ptr() for peer in peers], own, handle
