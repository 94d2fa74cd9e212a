"""All-reduce in one kernel over symmetric memory: one-shot for small messages, two-shot for larger ones.

One-shot reads everything from everybody: least latency, (n-1) S over a rank's links. Two-shot sums a part on each rank
and gathers the sums: 2 S (n-1)/n over the links, and a second barrier. As vLLM's custom_all_reduce.cuh and PyTorch's
symmetric memory ops do it. Sums are taken in fp32 in rank order and rounded once: both give every rank the same bits.

The message is cut into chunks, one a block. A block touches only its own two slots of each rank's buffer, and meets
only its own number on the other ranks; barrier.py shows why that is enough.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.barrier import meet
from shardlab_kernels.checks import check_dtype, wide
from shardlab_kernels.launch import check_device, launch
from shardlab_kernels.symmetric_memory import SLOT_UNIT, SymmetricMemory

USER = "all-reduce"  # the cut of the memory into slots, which the fused kernel shares
NUM_WARPS = 16
MAX_REGISTERS = 128  # 65536 / 512 threads: one block a multiprocessor. Unasked, ptxas aims at three, and spills


def reference(partials: torch.Tensor) -> torch.Tensor:
    """partials[n,...] of all ranks -> [...]: their sum, rounded once.

    In torch, a rank that has gathered them: write and read n S, write S.
    """
    return wide(partials).sum(0).to(partials.dtype)


def moved_bytes(num_bytes: int, size: int, algorithm: str) -> int:
    """What one rank's kernel reads and writes, of memory near or far, for a message of `num_bytes`.

    Both read S and write it to the slot. one_shot: reads n S, writes S. two_shot: reads S in n parts, writes one part
    of S/n, reads S, writes S.
    """
    if algorithm not in ("one_shot", "two_shot"):
        raise ValueError(f"algorithm={algorithm!r}; allowed: one_shot, two_shot")
    if algorithm == "one_shot":
        return (3 + size) * num_bytes
    return 5 * num_bytes + num_bytes // size


def wire_bytes(num_bytes: int, size: int, algorithm: str) -> int:
    """What one rank reads from its peers: one_shot (n-1) S, two_shot 2 S (n-1)/n. `num_bytes`: its message."""
    if algorithm not in ("one_shot", "two_shot"):
        raise ValueError(f"algorithm={algorithm!r}; allowed: one_shot, two_shot")
    return (size - 1) * num_bytes if algorithm == "one_shot" else 2 * num_bytes * (size - 1) // size


@triton.jit
def slot(buffer_ptrs, rank, block, epoch, slot_bytes, dtype: tl.constexpr):
    """The half that `epoch` stands for, of a block's region in a rank's buffer."""
    address = tl.load(buffer_ptrs + rank) + (block.to(tl.int64) * 2 + (epoch & 1)) * slot_bytes
    # Without this hint, one element at a time would be moved.
    return tl.multiple_of(address.to(tl.pointer_type(dtype)), 16)  # pyright: ignore[reportArgumentType]


@triton.jit
def slots(buffer_ptrs, SIZE: tl.constexpr, PEERS: tl.constexpr, block, epoch, slot_bytes, dtype: tl.constexpr):
    """slot() of every rank at once, [PEERS, 1]. Rows from SIZE on repeat the last rank's."""
    ranks = tl.minimum(tl.arange(0, PEERS), SIZE - 1)[:, None]
    address = tl.load(buffer_ptrs + ranks) + (block.to(tl.int64) * 2 + (epoch & 1)) * slot_bytes
    return tl.multiple_of(address.to(tl.pointer_type(dtype)), [16, 16])  # pyright: ignore[reportArgumentType]


@triton.jit
def _one_shot_kernel(
    x_ptr, out_ptr, buffer_ptrs, pad_ptrs, epoch_ptr, first_rank, num_elements, chunk, slot_bytes,
    NUM_BLOCKS: tl.constexpr, SIZE: tl.constexpr, PEERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block, here = tl.program_id(0), tl.program_id(1)
    rank = first_rank + here
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    begin = block.to(tl.int64) * chunk  # of this block's chunk, whose slot has room for all of it: no mask there
    x_ptr += here.to(tl.int64) * num_elements
    out_ptr += here.to(tl.int64) * num_elements
    epoch_ptr += here * NUM_BLOCKS + block
    epoch = tl.load(epoch_ptr)
    mine = slot(buffer_ptrs, rank, block, epoch, slot_bytes, dtype)
    for start in range(0, chunk, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + begin + offsets, mask=begin + offsets < num_elements, other=0.0)
        tl.store(mine + offsets, x)
    met = meet(epoch, block, rank, pad_ptrs, SIZE, PEERS)
    for start in range(0, chunk, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        for peer in tl.static_range(SIZE):  # unrolled: all loads are on their way before the first sum
            total += tl.load(slot(buffer_ptrs, peer, block, epoch, slot_bytes, dtype) + offsets).to(tl.float32)
        tl.store(out_ptr + begin + offsets, total.to(dtype), mask=begin + offsets < num_elements)
    tl.store(epoch_ptr, met)


@triton.jit
def _two_shot_kernel(
    x_ptr, out_ptr, buffer_ptrs, pad_ptrs, epoch_ptr, first_rank, num_elements, part, slot_bytes,
    NUM_BLOCKS: tl.constexpr, SIZE: tl.constexpr, PEERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block, here = tl.program_id(0), tl.program_id(1)
    rank = first_rank + here
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    begin = block.to(tl.int64) * part * SIZE  # a chunk is SIZE parts; part r is summed by rank r
    x_ptr += here.to(tl.int64) * num_elements
    out_ptr += here.to(tl.int64) * num_elements
    epoch_ptr += here * NUM_BLOCKS + block
    epoch = tl.load(epoch_ptr)
    mine = slot(buffer_ptrs, rank, block, epoch, slot_bytes, dtype)
    for start in range(0, part * SIZE, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + begin + offsets, mask=begin + offsets < num_elements, other=0.0)
        tl.store(mine + offsets, x)
    met = meet(epoch, block, rank, pad_ptrs, SIZE, PEERS)
    sums = slot(buffer_ptrs, rank, block, met, slot_bytes, dtype)  # the other half: peers still read the first
    for start in range(0, part, BLOCK):
        offsets = rank * part + start + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        for peer in tl.static_range(SIZE):
            total += tl.load(slot(buffer_ptrs, peer, block, epoch, slot_bytes, dtype) + offsets).to(tl.float32)
        tl.store(sums + offsets, total.to(dtype))
    done = meet(met, block, rank, pad_ptrs, SIZE, PEERS)
    peers = tl.arange(0, PEERS)[:, None]  # a tile has the same stretch of every rank's part: all links at once
    theirs = slots(buffer_ptrs, SIZE, PEERS, block, met, slot_bytes, dtype)
    for start in range(0, part, BLOCK):
        offsets = peers * part + start + tl.arange(0, BLOCK)[None, :]
        total = tl.load(theirs + offsets, mask=peers < SIZE, other=0.0)
        tl.store(out_ptr + begin + offsets, total, mask=(peers < SIZE) & (begin + offsets < num_elements))
    tl.store(epoch_ptr, done)


def one_shot(x: torch.Tensor, memory: SymmetricMemory) -> torch.Tensor:
    """x[...]{n} -> [...], the sum over the memory's ranks, on each of them. One barrier.

    Virtual ranks: x[n,...]{n} -> [n,...], n equal sums. float32, bfloat16 or float16, any length up to
    capacity_bytes(memory, "one_shot"). Every rank makes the same calls, in one order. Raises ValueError for a message
    that does not fit, for dtypes, and for tensors that are not where the memory is.
    """
    return _all_reduce(_one_shot_kernel, x, memory, parts=1)


def two_shot(x: torch.Tensor, memory: SymmetricMemory) -> torch.Tensor:
    """x[...]{n} -> [...], as one_shot does and to the same bits, with two barriers and less to read."""
    return _all_reduce(_two_shot_kernel, x, memory, parts=memory.size)


def capacity_bytes(memory: SymmetricMemory, algorithm: str) -> int:
    """The largest message of one rank: it is cut into whole units of 8192 bytes, for two_shot one a rank and block."""
    unit = SLOT_UNIT * (1 if algorithm == "one_shot" else memory.size)
    return memory.num_blocks * (memory.slot_bytes // unit * unit)


def cut(num_bytes: int, memory: SymmetricMemory, parts: int) -> tuple[int, int]:
    """-> (blocks, bytes of a block's chunk): the same on every rank. Raises ValueError where it does not fit."""
    unit = SLOT_UNIT * parts
    chunk = -(-num_bytes // (memory.num_blocks * unit)) * unit
    if chunk > memory.slot_bytes:
        fits = memory.num_blocks * (memory.slot_bytes // unit * unit)
        raise ValueError(f"a message of {num_bytes} bytes is too large for this symmetric memory: {fits} bytes fit")
    return -(-num_bytes // chunk), chunk


def _all_reduce(kernel: triton.JITFunction, x: torch.Tensor, memory: SymmetricMemory, parts: int) -> torch.Tensor:
    dtype = check_dtype(x=x)
    check_device(x=x)
    memory.check_ranks(x=x)
    memory.claim(USER)
    x = x.contiguous()
    out = torch.empty_like(x)
    num_elements = x.numel() // memory.num_local
    if num_elements:
        blocks, chunk = cut(num_elements * dtype.itemsize, memory, parts)
        launch(
            kernel,
            (blocks, memory.num_local),
            x,
            out,
            memory.buffer_ptrs,
            memory.pad_ptrs,
            memory.epochs,
            memory.rank,
            num_elements,
            chunk // parts // dtype.itemsize,
            memory.slot_bytes,
            NUM_BLOCKS=memory.num_blocks,
            SIZE=memory.size,
            PEERS=triton.next_power_of_2(memory.size),
            BLOCK=SLOT_UNIT // dtype.itemsize,
            num_warps=NUM_WARPS,
            maxnreg=MAX_REGISTERS,
        )
    return out
