"""Memory that a kernel of one rank reads and writes on every rank: one block of bytes a rank, and a table of addresses.

A block begins with the rank's signal pads (barrier.py) and goes on with its buffer. A kernel loads an address from the
table and casts it: `tl.load(buffer_ptrs + peer).to(tl.pointer_type(dtype))`. The idea is that of NVSHMEM's symmetric
heap and of torch.distributed._symmetric_memory; this class only holds what a kernel needs, and knows no process group.

Who makes one: `SymmetricMemory.virtual` (many ranks in one process, on one GPU), and shardlab.algorithms.symmetric
(the ranks of an axis).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shardlab_kernels.launch import INTERPRETED, num_multiprocessors

MAX_BLOCKS = 32  # of a kernel on one rank: about a quarter of an H100's multiprocessors fill its NVLinks
SLOT_UNIT = 8192  # bytes: what one block of 512 threads moves at once, 16 bytes a thread
_PAGE = 4096


def pad_bytes(size: int, num_blocks: int) -> int:
    """Signal pads of one rank, in whole pages: int32[num_blocks][size], what each peer's block wrote there last."""
    return -(-4 * num_blocks * size // _PAGE) * _PAGE


def slot_bytes(num_bytes: int, num_blocks: int) -> int:
    """One of a block's two slots, so that `num_blocks` of them hold a message of `num_bytes`."""
    return max(1, -(-num_bytes // (num_blocks * SLOT_UNIT))) * SLOT_UNIT


def rank_bytes(num_bytes: int, size: int, num_blocks: int) -> int:
    """What one rank must own: its pads, and a buffer of twice `num_bytes` (rounded up)."""
    return pad_bytes(size, num_blocks) + 2 * num_blocks * slot_bytes(num_bytes, num_blocks)


class SymmetricMemory:
    """The memory of one group of ranks, as one process sees it.

    `rank` is the first rank that this process runs, `num_local` how many: 1, or all `size` virtual ones. Where
    `stacked`, tensors have a leading dim of ranks. `buffer_ptrs` and `pad_ptrs` int64[size]: addresses on `device`.
    `buffers` uint8[num_local, buffer_bytes]: this process' own. `epochs` int32[num_local, num_blocks]: how often each
    block has met its peers. Kernels that share a memory must cut it alike: see `claim`.
    """

    def __init__(
        self,
        rank: int,
        bases: Sequence[int],
        blocks: torch.Tensor,
        num_bytes: int,
        num_blocks: int,
        *,
        stacked: bool,
        owner: object = None,
    ) -> None:
        """`bases`: address of each rank's block. `blocks` uint8[num_local, rank_bytes]: own ones, their pads zero.

        Every peer's pads must be zero before any kernel starts. `blocks` and `owner` keep the memory alive.
        """
        size = len(bases)
        self.rank, self.size, self.stacked = rank, size, stacked
        self.num_local, self.num_blocks = blocks.shape[0], num_blocks
        self.device = blocks.device
        self.slot_bytes = slot_bytes(num_bytes, num_blocks)
        pads = pad_bytes(size, num_blocks)
        self.buffers = blocks[:, pads:]
        self.buffer_bytes = self.buffers.shape[1]
        assert self.buffer_bytes == 2 * num_blocks * self.slot_bytes, "blocks are of rank_bytes(...)"
        if any(base % 16 for base in bases):
            raise ValueError(f"addresses {list(bases)}: kernels move 16 bytes at once, blocks must be aligned to 16")
        self.pad_ptrs = torch.tensor(list(bases), dtype=torch.int64, device=self.device)
        self.buffer_ptrs = self.pad_ptrs + pads
        self.epochs = torch.zeros(self.num_local, num_blocks, dtype=torch.int32, device=self.device)
        self._user: str | None = None
        self._owner = owner

    @classmethod
    def virtual(
        cls, size: int, num_bytes: int, device: torch.device | str = "cuda", num_blocks: int = MAX_BLOCKS
    ) -> SymmetricMemory:
        """`size` ranks in this process, on one device: one launch runs all of them, rank = tl.program_id(1) + rank.

        `num_bytes`: the largest message of one rank. All blocks of all ranks wait for each other, so all must be on
        the GPU at once: num_blocks * size is held to its multiprocessors. Real atomics and real interleaving, at the
        speed of the memory, not of NVLink. Raises ValueError, also in the interpreter, which runs one block at a time
        and would wait for ever, unless size is 1.
        """
        device = torch.device(device)
        if size < 1 or num_bytes < 0 or num_blocks < 1:
            raise ValueError(
                f"size={size}, num_bytes={num_bytes}, num_blocks={num_blocks}: positive numbers are needed"
            )
        if device.type == "cpu" and INTERPRETED and size > 1:
            raise ValueError(f"size={size} virtual ranks wait for each other; Triton's interpreter runs one at a time")
        processors = num_multiprocessors(device)
        if device.type == "cuda" and size > processors:
            raise ValueError(f"size={size} virtual ranks need a multiprocessor each, {device} has {processors}")
        num_blocks = min(num_blocks, max(1, processors // size))
        blocks = torch.zeros(size, rank_bytes(num_bytes, size, num_blocks), dtype=torch.uint8, device=device)
        bases = [block.data_ptr() for block in blocks]
        return cls(0, bases, blocks, num_bytes, num_blocks, stacked=True)

    def claim(self, user: str) -> None:
        """Kernels of one `user` cut the buffer alike. Raises ValueError where another kind has used it before."""
        if self._user not in (None, user):
            raise ValueError(f"this symmetric memory serves {self._user}, {user} needs one of its own")
        self._user = user

    def check_ranks(self, **tensors: torch.Tensor | None) -> None:
        """Raises ValueError for a tensor on another device, or whose leading dim is not the virtual ranks."""
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            if tensor.device != self.device:
                raise ValueError(f"{name} is on {tensor.device}, the symmetric memory on {self.device}")
            if self.stacked and tensor.shape[:1] != (self.num_local,):
                raise ValueError(f"{name}{tuple(tensor.shape)}: dim 0 must be the {self.num_local} virtual ranks")
