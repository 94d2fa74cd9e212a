"""How an expert-parallel exchange cuts its symmetric memory, and the expert order of what it brings.

A rank's buffer: header int32[n][E/n + 1] from each source (rows for each of my experts; then the source's row that my
segment began at), rows[n][capacity][D] from each source, combined[capacity][D] from all experts' ranks. There are no
halves, because calls alternate. Who ends a kernel has seen all blocks of all ranks arrive in it, and they arrive after
the work that their streams had before. So when a rank dispatches, every rank has come to the combine before, and has
read what it was sent; when it combines, every rank has come to the dispatch before, and has read what came back. The
place of the results is the same in each call, which a replayed graph needs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from shardlab_kernels.checks import FLOATS, check_dtype, check_integers, check_rows
from shardlab_kernels.launch import check_device, launch
from shardlab_kernels.moe_sort import Order
from shardlab_kernels.symmetric_memory import SymmetricMemory

USER = "an expert-parallel exchange"
_LINE = 128  # bytes: each region begins on a cache line
_MOST_AT_ONCE = 8192  # elements of a row that a block moves at once
STAGES = 4  # rows on their way to a block: a row waits for its index, then for its elements


class Received(NamedTuple):
    """What dispatch brings: views of symmetric memory, good for work that is issued before the next call.

    rows[n,capacity,D]: of each source its rows, expert by expert; beyond its counts there is something old.
    counts int32[n,E/n]: how many of them are for each of this rank's experts.
    """

    rows: torch.Tensor
    counts: torch.Tensor


def needed_bytes(size: int, num_experts: int, capacity: int, d: int, dtype: torch.dtype) -> int:
    """`num_bytes` to ask of a symmetric memory for Exchange(...): half of what a rank's regions take."""
    return -(-_layout(size, num_experts, capacity, d, dtype)[-1] // 2)


def _layout(size: int, num_experts: int, capacity: int, d: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Where rows and combined begin in a rank's buffer, and where it ends, in bytes."""
    rows = _up(4 * size * (num_experts // size + 1))
    combined = rows + _up(size * capacity * d * dtype.itemsize)
    return rows, combined, combined + _up(capacity * d * dtype.itemsize)


def _up(num_bytes: int) -> int:
    return -(-num_bytes // _LINE) * _LINE


class Exchange:
    """A symmetric memory cut for one layer size. It is for dispatch and combine, in turns, and nothing else.

    E experts, E/n on each rank in order. capacity: most rows that a rank may send, T * k; one source could send all of
    them to one rank. All ranks make it alike. Raises ValueError for sizes, and where the memory is too small.
    """

    def __init__(self, memory: SymmetricMemory, num_experts: int, capacity: int, d: int, dtype: torch.dtype) -> None:
        if dtype not in FLOATS:
            raise ValueError(f"dtype={dtype}: float32, bfloat16 or float16 is needed")
        if num_experts < 1 or num_experts % memory.size:
            raise ValueError(f"num_experts={num_experts} must be a multiple of the {memory.size} ranks")
        if capacity < 1 or d < 1:
            raise ValueError(f"capacity={capacity}, d={d}: positive numbers are needed")
        n, local = memory.size, num_experts // memory.size
        self.rows_at, self.combined_at, end = _layout(n, num_experts, capacity, d, dtype)
        if end > memory.buffer_bytes:
            asked = needed_bytes(n, num_experts, capacity, d, dtype)
            raise ValueError(f"the buffer has {memory.buffer_bytes} bytes, {end} are needed: make it with {asked}")
        memory.claim(USER)
        self.memory, self.num_experts, self.capacity, self.d, self.dtype = memory, num_experts, capacity, d, dtype
        header = memory.buffers[:, : 4 * n * (local + 1)].view(torch.int32).unflatten(1, (n, local + 1))
        sent = memory.buffers[:, self.rows_at : self.combined_at].view(dtype)[:, : n * capacity * d]
        back = memory.buffers[:, self.combined_at : end].view(dtype)[:, : capacity * d]
        counts, rows, combined = header[..., :local], sent.unflatten(1, (n, capacity, d)), back.unflatten(1, (-1, d))
        if not memory.stacked:
            counts, rows, combined = counts[0], rows[0], combined[0]
        self.received, self.combined = Received(rows, counts), combined
        self.sent: int | None = None  # rows of this rank that are with the experts

    @property
    def meta(self) -> dict[str, Any]:
        """What both kernels are compiled for."""
        block = min(_MOST_AT_ONCE, triton.next_power_of_2(self.d))
        return {
            "NUM_BLOCKS": self.memory.num_blocks,  # always all of them: whoever ends has met all blocks of all ranks
            "SIZE": self.memory.size,
            "PEERS": triton.next_power_of_2(self.memory.size),
            "LOCAL": self.num_experts // self.memory.size,
            "EXPERTS": triton.next_power_of_2(self.num_experts // self.memory.size + 1),
            "D": self.d,
            "BLOCK": block,
            "STAGES": STAGES,
            "num_warps": min(16, max(4, block // 512)),
        }

    def check_rows(self, name: str, tensor: torch.Tensor) -> None:
        """Raises ValueError for what is not [rows, D] in the exchange's D and dtype, behind the virtual ranks."""
        self.memory.check_ranks(**{name: tensor})
        check_rows(**{name: tensor})
        if tensor.dim() != 2 + self.memory.stacked or tensor.shape[-1] != self.d:
            raise ValueError(f"{name}{tuple(tensor.shape)}: rows of D={self.d} are needed")
        if check_dtype(**{name: tensor}) != self.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, the exchange was made for {self.dtype}")

    def check_shape(self, name: str, tensor: torch.Tensor, *shape: int) -> None:
        """Raises ValueError for another shape, behind the virtual ranks."""
        wanted = (self.memory.num_local, *shape) if self.memory.stacked else shape
        if tensor.shape != wanted:
            raise ValueError(f"{name}{tuple(tensor.shape)}: {name}{wanted} is needed")


@triton.jit
def _received_order_kernel(
    counts_ptr, offsets_ptr, token_ptr, position_ptr, stride, capacity,
    SIZE: tl.constexpr, PEERS: tl.constexpr, LOCAL: tl.constexpr, EXPERTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program for each source and expert: its rows lie together, in what was received and in expert order."""
    expert, source = tl.program_id(0), tl.program_id(1)
    s, e = tl.arange(0, PEERS)[:, None], tl.arange(0, EXPERTS)[None, :]
    counts = tl.load(counts_ptr + s * stride + e, mask=(s < SIZE) & (e < LOCAL), other=0)
    num_rows = tl.sum(tl.where((s == source) & (e == expert), counts, 0))
    first = source * capacity + tl.sum(tl.where((s == source) & (e < expert), counts, 0))
    sorted_first = tl.sum(tl.where((e < expert) | ((e == expert) & (s < source)), counts, 0))
    for start in range(0, num_rows, BLOCK):
        i = start + tl.arange(0, BLOCK)
        tl.store(token_ptr + sorted_first + i, first + i, mask=i < num_rows)
        tl.store(position_ptr + first + i, sorted_first + i, mask=i < num_rows)
    if source == 0:
        tl.store(offsets_ptr + expert, sorted_first)
    if expert == LOCAL - 1:  # the rest of this source's places is empty
        for start in range(first + num_rows, (source + 1) * capacity, BLOCK):
            i = start + tl.arange(0, BLOCK)
            tl.store(position_ptr + i, tl.full((BLOCK,), -1, tl.int32), mask=i < (source + 1) * capacity)
        if source == SIZE - 1:
            tl.store(offsets_ptr + LOCAL, sorted_first + num_rows)
            for start in range(sorted_first + num_rows, SIZE * capacity, BLOCK):
                i = start + tl.arange(0, BLOCK)
                tl.store(token_ptr + i, tl.full((BLOCK,), -1, tl.int32), mask=i < SIZE * capacity)


def received_order(counts: torch.Tensor, capacity: int) -> Order:
    """counts int32[n,E/n] of one rank -> the Order of its received places, expert-major, within an expert by source.

    For permute(rows.flatten(0, 1), order) -> [n * capacity, D], then grouped_matmul(..., order.offsets), then
    combine(outputs, exchange, order.position). offsets int32[E/n + 1], token int32[n * capacity] (a place, or -1),
    position int32[n * capacity, 1] (-1 for an empty place).
    """
    check_integers(counts=counts)
    check_rows(counts=counts)
    device = check_device(counts=counts)
    if counts.dim() != 2 or not counts.numel() or capacity < 1:
        raise ValueError(f"counts{tuple(counts.shape)}, capacity={capacity}: counts[n,E/n] is needed, none of them 0")
    n, local = counts.shape
    shapes = (local + 1,), (n * capacity,), (n * capacity, 1)
    order = Order(*(torch.empty(shape, dtype=torch.int32, device=device) for shape in shapes))
    launch(
        _received_order_kernel, (local, n),
        counts, order.offsets, order.token, order.position, counts.stride(0), capacity,
        SIZE=n, PEERS=triton.next_power_of_2(n), LOCAL=local, EXPERTS=triton.next_power_of_2(local), BLOCK=256,
    )  # fmt: skip
    return order
