"""A barrier between blocks of the same number on all ranks, by signal pads. No reset, and a CUDA graph may replay it.

Each block of each rank counts its barriers: its epoch, which lives in its own memory, so that a replayed graph goes on
counting. To arrive, a block writes epoch + 1 into its own place in every peer's pads; to pass, it waits until every
place in its own pads has come that far. Differences are taken in wrapping int32, so counting may go on for ever.

Why it is enough that block b waits for blocks b only. Blocks of one rank then need not be on the GPU together: a GPU
starts blocks in order, so the lowest block that has not ended is on every rank's GPU, and it can pass.

Halves. A block that writes data for its peers before its barrier, in half `epoch & 1` of a region of its own, needs no
second barrier after they have read it. Call its barriers 0, 1, 2, ...; the data of barrier e is in half e & 1 and peers
read it after barrier e, before they arrive at e + 1. The next write to the same half comes before barrier e + 2, thus
after this block has passed e + 1. To pass, it has seen every peer's block arrive at e + 1, so all are done reading.
Nothing in this asks for calls of equal size or kind: what counts is only how often a block b has met its peers, and
all ranks make the same calls.
"""

from __future__ import annotations

import triton
import triton.language as tl

from shardlab_kernels.launch import launch
from shardlab_kernels.symmetric_memory import SymmetricMemory


@triton.jit
def meet(epoch, block, rank, pad_ptrs, SIZE: tl.constexpr, PEERS: tl.constexpr):
    """-> epoch + 1, once block `block` of all SIZE ranks is here. PEERS: SIZE rounded up to a power of two.

    Stores of all threads before it can be seen by all ranks' loads after it: debug_barrier joins the threads to those
    that signal (release) and wait (acquire), one lane a peer; both are at system scope.
    """
    peers = tl.arange(0, PEERS)
    there = peers < SIZE
    arrived = epoch + 1
    theirs = tl.load(pad_ptrs + peers, mask=there, other=0).to(tl.pointer_type(tl.int32)) + block * SIZE + rank
    mine = tl.load(pad_ptrs + rank).to(tl.pointer_type(tl.int32)) + block * SIZE + peers
    tl.debug_barrier()
    tl.atomic_xchg(theirs, tl.zeros((PEERS,), tl.int32) + arrived, mask=there, sem="release", scope="sys")
    behind = 1
    while behind > 0:
        seen = tl.atomic_add(mine, tl.zeros((PEERS,), tl.int32), mask=there, sem="acquire", scope="sys")
        behind = tl.sum((there & (seen - arrived < 0)).to(tl.int32), axis=0)
    tl.debug_barrier()
    return arrived


@triton.jit
def _barrier_kernel(pad_ptrs, epoch_ptr, first_rank, NUM_BLOCKS: tl.constexpr, SIZE: tl.constexpr, PEERS: tl.constexpr):
    block, here = tl.program_id(0), tl.program_id(1)
    epoch_ptr += here * NUM_BLOCKS + block
    epoch = tl.load(epoch_ptr)
    tl.store(epoch_ptr, meet(epoch, block, first_rank + here, pad_ptrs, SIZE, PEERS))


def barrier(memory: SymmetricMemory) -> None:
    """Wait on the device until every rank's stream has come here. Every rank calls it."""
    launch(
        _barrier_kernel,
        (1, memory.num_local),
        memory.pad_ptrs,
        memory.epochs,
        memory.rank,
        NUM_BLOCKS=memory.num_blocks,
        SIZE=memory.size,
        PEERS=triton.next_power_of_2(memory.size),
        num_warps=1,
    )
