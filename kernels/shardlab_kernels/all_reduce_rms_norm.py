"""All-reduce, residual add and RMSNorm in one kernel: what follows each row-parallel layer of a decoder, in one launch.

The one-shot all-reduce of all_reduce.py on whole rows: the sum stays in registers, and goes into the residual stream
and through the norm at once. Saves writing and reading the sum twice, and a launch. For few tokens; beyond about
0.5 MB two-shot and then add_rms_norm is faster. As in FlashInfer's and TensorRT-LLM's allreduce fusion.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels import all_reduce, rms_norm
from shardlab_kernels.all_reduce import slot
from shardlab_kernels.barrier import meet
from shardlab_kernels.checks import check_dtype, sizes, wide
from shardlab_kernels.launch import check_device, launch
from shardlab_kernels.symmetric_memory import SymmetricMemory

MAX_ROW_BYTES = 32768  # a block holds a row: 16 elements a thread of 1024


def reference(
    partials: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """partials[n,M,D] of all ranks, residual[M,D], weight[D] -> (normed[M,D], total[M,D]).

    In torch, in units of M * D elements: the sum n + 1, the residual 3, the norm 7 = 11 + n.
    """
    total = (wide(partials.sum(0)) + residual).to(partials.dtype)
    return rms_norm.reference(total, weight, eps), total


def moved_bytes(x: torch.Tensor, weight: torch.Tensor, size: int) -> int:
    """What one rank's kernel moves for its x[M,D]: read x and write it to the slot, read `size` slots and the residual,
    write the total and the result; read the weight once."""
    return (5 + size) * x.nbytes + weight.nbytes


@triton.jit
def _all_reduce_rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, normed_ptr, total_ptr, buffer_ptrs, pad_ptrs, epoch_ptr, first_rank, M, D, eps,
    rows_each, slot_stride, slot_bytes,
    NUM_BLOCKS: tl.constexpr, SIZE: tl.constexpr, PEERS: tl.constexpr, BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    block, here = tl.program_id(0), tl.program_id(1)
    rank = first_rank + here
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    epoch_ptr += here * NUM_BLOCKS + block
    epoch = tl.load(epoch_ptr)
    first = block * rows_each
    rows = tl.minimum(rows_each, M - first)  # at least one
    begin = (here.to(tl.int64) * M + first) * D
    mine = slot(buffer_ptrs, rank, block, epoch, slot_bytes, dtype)
    for row in range(0, rows):
        x = tl.load(x_ptr + begin + row * D + columns, mask=inside, other=0.0)
        tl.store(mine + row * slot_stride + columns, x, mask=inside)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0)
    met = meet(epoch, block, rank, pad_ptrs, SIZE, PEERS)
    for row in range(0, rows):
        residual = tl.load(residual_ptr + begin + row * D + columns, mask=inside, other=0.0).to(tl.float32)
        total = tl.zeros((BLOCK,), tl.float32)
        for peer in tl.range(0, SIZE, loop_unroll_factor=UNROLL):
            theirs = slot(buffer_ptrs, peer, block, epoch, slot_bytes, dtype) + row * slot_stride
            total += tl.load(theirs + columns, mask=inside, other=0.0).to(tl.float32)
        # Rounded where all_reduce and add_rms_norm round, so that choosing between them changes no token.
        total = (total.to(dtype).to(tl.float32) + residual).to(dtype)
        tl.store(total_ptr + begin + row * D + columns, total, mask=inside)
        total = total.to(tl.float32)
        scale = 1.0 / tl.sqrt(tl.sum(total * total, axis=0) / D + eps)
        normed = (total * scale).to(dtype).to(tl.float32) * weight.to(tl.float32)
        tl.store(normed_ptr + begin + row * D + columns, normed.to(dtype), mask=inside)
    tl.store(epoch_ptr, met)


def all_reduce_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, memory: SymmetricMemory
) -> tuple[torch.Tensor, torch.Tensor]:
    """x[...,D]{n}, residual[...,D], weight[D] -> (normed[...,D], total[...,D]), on every rank alike.

    total = x summed over the ranks + residual, in the bits of one_shot and add_rms_norm; normed = RMSNorm(total) *
    weight. float32, bfloat16 or float16. Virtual ranks: x and residual have a leading dim of ranks. Rows are dealt to
    at most memory.num_blocks blocks, and a block's must fit its slot. Every rank makes the same calls. Raises
    ValueError for shapes, dtypes, devices, rows beyond 32768 bytes, and a message that does not fit.
    """
    d = sizes(x=(x, "... D"), weight=(weight, "D"))["D"]
    if residual.shape != x.shape:
        raise ValueError(f"x{tuple(x.shape)} and residual{tuple(residual.shape)}: one shape is needed")
    dtype = check_dtype(x=x, residual=residual, weight=weight)
    check_device(x=x, residual=residual, weight=weight)
    memory.check_ranks(x=x)
    if not 1 <= d <= MAX_ROW_BYTES // dtype.itemsize:
        raise ValueError(f"D={d}: a row of 1..{MAX_ROW_BYTES // dtype.itemsize} elements of {dtype} is needed")
    memory.claim(all_reduce.USER)
    x, residual, weight = x.contiguous(), residual.contiguous(), weight.contiguous()
    normed, total = torch.empty_like(x), torch.empty_like(x)
    num_rows = x.numel() // memory.num_local // d
    if not num_rows:
        return normed, total
    slot_stride = -(-d // 16) * 16  # elements: rows begin at 16 bytes at least
    rows_each = -(-num_rows // memory.num_blocks)
    row_bytes = slot_stride * dtype.itemsize
    if rows_each * row_bytes > memory.slot_bytes:
        fits = memory.slot_bytes // row_bytes * memory.num_blocks
        raise ValueError(f"{num_rows} rows of D={d} are too large for this symmetric memory: {fits} such rows fit")
    block = triton.next_power_of_2(d)
    warps = min(32, max(4, block // 512))
    launch(
        _all_reduce_rms_norm_kernel,
        (-(-num_rows // rows_each), memory.num_local),
        x, residual, weight, normed, total, memory.buffer_ptrs, memory.pad_ptrs, memory.epochs, memory.rank,
        num_rows, d, eps, rows_each, slot_stride, memory.slot_bytes,
        NUM_BLOCKS=memory.num_blocks, SIZE=memory.size, PEERS=triton.next_power_of_2(memory.size), BLOCK=block,
        UNROLL=memory.size if block <= 8192 else 4,  # ranks whose rows are on their way at once: more would spill
        num_warps=warps, maxnreg=min(255, 65536 // (32 * warps)),
    )  # fmt: skip
    return normed, total


def unfused(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, memory: SymmetricMemory
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in two kernels, what the fused one is to beat: one_shot, then add_rms_norm."""
    return rms_norm.add_rms_norm(all_reduce.one_shot(x, memory), residual, weight, eps)
