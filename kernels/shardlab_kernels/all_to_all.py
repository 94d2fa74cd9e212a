"""Expert-parallel all-to-all over symmetric memory: dispatch pushes rows to their experts' ranks, combine pushes back.

Each kernel gathers as it sends (permute and dispatch are one pass), writes every row once, straight into the memory of
the rank it is for, and ends when everybody's rows are here. How many rows go where is known to the device only: nothing
waits for the host, and a CUDA graph may replay it. After DeepEP's low-latency kernels, https://github.com/deepseek-ai/DeepEP.
exchange.py says where things lie, and why one barrier a kernel is enough.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.barrier import meet
from shardlab_kernels.checks import check_integers
from shardlab_kernels.exchange import Exchange, Received, needed_bytes, received_order
from shardlab_kernels.launch import check_device, launch

__all__ = ["Exchange", "Received", "combine", "dispatch", "needed_bytes", "received_order"]


def reference_dispatch(rows: list[torch.Tensor], offsets: list[torch.Tensor], rank: int) -> list[torch.Tensor]:
    """rows[M,D] and offsets[E+1] of every source rank -> what `rank` gets of each, in source order.

    In torch: index, copy to the peer, read and written twice: 4 * M * D a rank.
    """
    local = (len(offsets[0]) - 1) // len(rows)
    return [one[at[rank * local] : at[(rank + 1) * local]] for one, at in zip(rows, offsets, strict=True)]


def moved_bytes(num_rows: int, d: int, dtype: torch.dtype) -> int:
    """What one kernel of one rank moves for `num_rows` rows of D: each read once and written once, without indices."""
    return 2 * num_rows * d * dtype.itemsize


@triton.jit
def _dispatch_kernel(
    x_ptr, offsets_ptr, token_ptr, buffer_ptrs, pad_ptrs, epoch_ptr, first_rank, M, x_rank_stride, x_stride,
    capacity, rows_at,
    NUM_BLOCKS: tl.constexpr, SIZE: tl.constexpr, PEERS: tl.constexpr, LOCAL: tl.constexpr, EXPERTS: tl.constexpr,
    D: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    block, here = tl.program_id(0), tl.program_id(1)
    rank = first_rank + here
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    x_ptr += here.to(tl.int64) * x_rank_stride
    offsets_ptr += here * (SIZE * LOCAL + 1)
    epoch_ptr += here * NUM_BLOCKS + block
    peers = tl.arange(0, PEERS)
    there = peers < SIZE
    begins = tl.load(offsets_ptr + peers * LOCAL, mask=there, other=2147483647)  # of each peer's segment
    if block == 0:
        e = tl.arange(0, EXPERTS)[None, :]
        begin = tl.load(offsets_ptr + peers[:, None] * LOCAL + e, mask=there[:, None] & (e < LOCAL), other=0)
        end = tl.load(offsets_ptr + peers[:, None] * LOCAL + e + 1, mask=there[:, None] & (e < LOCAL), other=0)
        header = tl.load(buffer_ptrs + peers, mask=there, other=0).to(tl.pointer_type(tl.int32))[:, None]
        value = tl.where(e < LOCAL, end - begin, begins[:, None])
        tl.store(header + rank * (LOCAL + 1) + e, value, mask=there[:, None] & (e <= LOCAL))
    num_rows = tl.minimum(tl.load(offsets_ptr + SIZE * LOCAL), M)
    for m in tl.range(block, num_rows, NUM_BLOCKS, num_stages=STAGES):  # pyright: ignore[reportGeneralTypeIssues]
        row = m
        if token_ptr is not None:
            row = tl.load(token_ptr + here.to(tl.int64) * M + m)
        peer = tl.sum((begins <= m).to(tl.int32), axis=0) - 1  # of empty segments that begin at m, the last is meant
        place = m - tl.max(tl.where(begins <= m, begins, 0), axis=0)
        address = tl.load(buffer_ptrs + peer) + rows_at
        out_ptr = tl.multiple_of(address.to(tl.pointer_type(dtype)), 16) + (rank * capacity + place).to(tl.int64) * D
        for start in tl.static_range(0, D, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            x = tl.load(x_ptr + row.to(tl.int64) * x_stride + columns, mask=columns < D)
            tl.store(out_ptr + columns, x, mask=columns < D)
    tl.store(epoch_ptr, meet(tl.load(epoch_ptr), block, rank, pad_ptrs, SIZE, PEERS))


@triton.jit
def _combine_kernel(
    y_ptr, position_ptr, buffer_ptrs, pad_ptrs, epoch_ptr, first_rank, y_rank_stride, y_stride, capacity, combined_at,
    NUM_BLOCKS: tl.constexpr, SIZE: tl.constexpr, PEERS: tl.constexpr, LOCAL: tl.constexpr, EXPERTS: tl.constexpr,
    D: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    block, here = tl.program_id(0), tl.program_id(1)
    rank = first_rank + here
    dtype: tl.constexpr = y_ptr.dtype.element_ty
    y_ptr += here.to(tl.int64) * y_rank_stride
    epoch_ptr += here * NUM_BLOCKS + block
    peers = tl.arange(0, PEERS)
    there = peers < SIZE
    e = tl.arange(0, EXPERTS)[None, :]
    header = tl.load(buffer_ptrs + rank).to(tl.pointer_type(tl.int32)) + peers * (LOCAL + 1)
    counts = tl.load(header[:, None] + e, mask=there[:, None] & (e < LOCAL), other=0)
    begins = tl.load(header + LOCAL, mask=there, other=0)
    totals = tl.sum(counts, axis=1)
    ends = tl.cumsum(totals, axis=0)  # rows of all sources counted through: source s has ends[s] - totals[s] .. ends[s]
    for m in tl.range(block, tl.sum(totals, axis=0), NUM_BLOCKS, num_stages=STAGES):
        source = tl.sum((ends <= m).to(tl.int32), axis=0)
        place = m - tl.max(tl.where(ends <= m, ends, 0), axis=0)
        row = source * capacity + place
        if position_ptr is not None:
            row = tl.load(position_ptr + here.to(tl.int64) * SIZE * capacity + row)
        back = place + tl.sum(tl.where(peers == source, begins, 0), axis=0)
        address = tl.load(buffer_ptrs + source) + combined_at
        out_ptr = tl.multiple_of(address.to(tl.pointer_type(dtype)), 16) + back.to(tl.int64) * D
        for start in tl.static_range(0, D, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            y = tl.load(y_ptr + row.to(tl.int64) * y_stride + columns, mask=columns < D)
            tl.store(out_ptr + columns, y, mask=columns < D)
    tl.store(epoch_ptr, meet(tl.load(epoch_ptr), block, rank, pad_ptrs, SIZE, PEERS))


def dispatch(x: torch.Tensor, offsets: torch.Tensor, token: torch.Tensor | None, exchange: Exchange) -> Received:
    """x[T,D] -> rows[n,capacity,D] of all sources on the ranks of their experts, and counts int32[n,E/n].

    `offsets` int32[E+1] and `token` int32[M] are an Order's: row m of the expert-major order is x[token[m]], for m <
    offsets[E]; rank p gets offsets[p * E/n] .. offsets[(p+1) * E/n] of them. `token` None: x[M,D] is in that order
    already. Virtual ranks: each tensor has a leading dim of ranks, so have the results. x may have strided rows.
    Raises ValueError for shapes, dtypes, devices, M beyond the exchange's capacity, and out of turn.
    """
    memory = exchange.memory
    exchange.check_rows("x", x)
    check_integers(offsets=offsets, token=token)
    check_device(x=x, offsets=offsets, token=token)
    memory.check_ranks(offsets=offsets, token=token)
    exchange.check_shape("offsets", offsets, exchange.num_experts + 1)
    num_rows = x.shape[-2] if token is None else token.shape[-1]
    if token is not None:
        exchange.check_shape("token", token, num_rows)
    if num_rows > exchange.capacity:
        raise ValueError(f"{num_rows} rows to send, the exchange's capacity is {exchange.capacity}")
    if exchange.sent is not None:
        raise ValueError("dispatch after dispatch: combine comes next, a second layer at once needs a second exchange")
    exchange.sent = num_rows
    launch(
        _dispatch_kernel, (memory.num_blocks, memory.num_local),
        x, offsets.contiguous(), None if token is None else token.contiguous(),
        memory.buffer_ptrs, memory.pad_ptrs, memory.epochs, memory.rank,
        num_rows, x.stride(0) if memory.stacked else 0, x.stride(-2), exchange.capacity, exchange.rows_at,
        **exchange.meta,
    )  # fmt: skip
    return exchange.received


def combine(y: torch.Tensor, exchange: Exchange, position: torch.Tensor | None = None) -> torch.Tensor:
    """y[n,capacity,D], the experts' outputs where dispatch put their inputs -> [M,D] on each source, expert-major.

    `position` int32[n * capacity] (received_order's): y[R,D] has the output for place s * capacity + i in that row. The
    result is ready for moe_permute.unpermute; rows from the source's offsets[E] on mean nothing. It is a view, good for
    work that is issued before the next call. Virtual ranks: leading dims. Raises ValueError, also out of turn.
    """
    memory, n = exchange.memory, exchange.memory.size
    if position is None:
        exchange.check_shape("y", y, n, exchange.capacity, exchange.d)
        y = y.flatten(-3, -2)
    else:
        position = position.flatten(int(memory.stacked))
        exchange.check_shape("position", position, n * exchange.capacity)
    exchange.check_rows("y", y)
    check_integers(position=position)
    check_device(y=y, position=position)
    memory.check_ranks(position=position)
    if exchange.sent is None:
        raise ValueError("combine before dispatch: nothing has been sent")
    num_rows, exchange.sent = exchange.sent, None
    launch(
        _combine_kernel, (memory.num_blocks, memory.num_local),
        y, None if position is None else position.contiguous(),
        memory.buffer_ptrs, memory.pad_ptrs, memory.epochs, memory.rank,
        y.stride(0) if memory.stacked else 0, y.stride(-2), exchange.capacity, exchange.combined_at,
        **exchange.meta,
    )  # fmt: skip
    return exchange.combined[..., :num_rows, :]
