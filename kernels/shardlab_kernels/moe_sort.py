"""A stable counting sort of assignments by expert, on the device: no value of it is needed on the host.

Three small kernels: how many assignments of each block go to each expert; for each expert the sums over the blocks
before; for each assignment its rank in its block, plus those sums. The layout is MegaBlocks', arXiv 2211.15841.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from shardlab_kernels.checks import check_integers, sizes
from shardlab_kernels.launch import cdiv, check_device, launch

MAX_EXPERTS = 1024
BLOCK = 256  # assignments a program; it compares each with each, in strips of STRIP
STRIP = 32


@dataclass(frozen=True)
class Order:
    """Where each of the M = T * k assignments of tokens to experts lies, expert by expert.

    Kernels trust it: one made by hand with a position beyond M writes where it should not.
    """

    offsets: torch.Tensor  # int32[E+1]: rows of expert e are offsets[e]..offsets[e+1]; offsets[E] is all that count
    token: torch.Tensor  # int32[M]: the token that row m comes from; -1 beyond offsets[E]
    position: torch.Tensor  # int32[T,k]: the row of assignment (t, j); -1 where its expert does not exist


def reference(experts: torch.Tensor, num_experts: int) -> Order:
    """experts[T,k] -> Order, as `sort_by_expert`.

    Written out in torch it moves, in units of M * 4 bytes: a stable sort of int32 at least 1 read and 3 written (values
    and 8-byte indices), a histogram 1, indices read and the inverse written 2 + 2 = 9.
    """
    flat = experts.flatten().long()
    flat = torch.where((flat >= 0) & (flat < num_experts), flat, num_experts)
    order = flat.argsort(stable=True)
    rows = torch.arange(flat.numel(), device=flat.device)
    offsets = torch.nn.functional.pad(flat.bincount(minlength=num_experts + 1)[:num_experts].cumsum(0), (1, 0))
    counts = rows < offsets[-1]
    token = torch.where(counts, order // experts.shape[1], -1)
    position = torch.empty_like(rows).scatter_(0, order, torch.where(counts, rows, -1))
    return Order(offsets.int(), token.int(), position.view(experts.shape).int())


def moved_bytes(experts: torch.Tensor, num_experts: int) -> int:
    """What the three kernels move for these experts, with M of them in cdiv(M, BLOCK) blocks: the experts read twice,
    token and position written; the counts of each block and expert written, read, written and read; offsets written."""
    counts = cdiv(experts.numel(), BLOCK) * num_experts if experts.numel() > BLOCK else 0
    return (4 * experts.numel() + 4 * counts + num_experts + 1) * 4


@triton.jit(do_not_specialize=["M", "num_blocks"])
def _count_kernel(experts_ptr, counts_ptr, M, E, num_blocks, BLOCK: tl.constexpr, BLOCK_E: tl.constexpr):
    """counts[E, num_blocks]: how many assignments of this block chose each expert."""
    block = tl.program_id(0)
    m = block * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(experts_ptr + m, mask=m < M, other=-1)
    counts = tl.histogram(expert, BLOCK_E, mask=(expert >= 0) & (expert < E))
    all_experts = tl.arange(0, BLOCK_E)
    tl.store(counts_ptr + all_experts.to(tl.int64) * num_blocks + block, counts, mask=all_experts < E)


@triton.jit(do_not_specialize=["num_blocks"])
def _scan_kernel(counts_ptr, totals_ptr, num_blocks, BLOCK: tl.constexpr):
    """counts of one expert -> their sums over the blocks before, in place; totals[E] = the sum over all."""
    expert = tl.program_id(0)
    row_ptr = counts_ptr + expert.to(tl.int64) * num_blocks
    total = tl.zeros((), dtype=tl.int32)
    for start in range(0, num_blocks, BLOCK):
        blocks = start + tl.arange(0, BLOCK)
        counts = tl.load(row_ptr + blocks, mask=blocks < num_blocks, other=0)
        tl.store(row_ptr + blocks, total + tl.cumsum(counts) - counts, mask=blocks < num_blocks)
        total += tl.sum(counts)
    tl.store(totals_ptr + expert, total)


@triton.jit(do_not_specialize=["M", "num_blocks"])  # they change from call to call: one kernel for all
def _place_kernel(
    experts_ptr,
    before_ptr,  # int32[E, num_blocks], the sums of _scan_kernel; unused with one block
    totals_ptr,  # int32[E]; unused with one block
    offsets_ptr,
    token_ptr,
    position_ptr,
    M,
    E,
    num_blocks,
    NUM_CHOSEN: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    STRIP: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    block = tl.program_id(0)
    m = block * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(experts_ptr + m, mask=m < M, other=-1)
    exists = (expert >= 0) & (expert < E)
    all_experts = tl.arange(0, BLOCK_E)
    if ONE_BLOCK:
        totals = tl.histogram(expert, BLOCK_E, mask=exists)
    else:
        totals = tl.load(totals_ptr + all_experts, mask=all_experts < E, other=0)
    starts = tl.cumsum(totals) - totals
    num_rows = tl.sum(totals)
    if block == 0:
        tl.store(offsets_ptr + all_experts, starts, mask=all_experts < E)
        tl.store(offsets_ptr + E, num_rows)

    # The rank in the block: how many earlier assignments chose the same expert.
    rank = tl.zeros((BLOCK,), dtype=tl.int32)
    for first in range(0, BLOCK, STRIP):
        others = block * BLOCK + first + tl.arange(0, STRIP)
        other = tl.load(experts_ptr + others, mask=others < M, other=-1)
        same = (expert[None, :] == other[:, None]) & (others[:, None] < m[None, :])
        rank += tl.sum(same.to(tl.int32), axis=0)  # the first dim: a thread holds all of it, and no warp exchanges

    position = tl.gather(starts, tl.where(exists, expert, 0), axis=0) + rank
    if not ONE_BLOCK:
        position += tl.load(before_ptr + expert.to(tl.int64) * num_blocks + block, mask=exists, other=0)
    tl.store(position_ptr + m, tl.where(exists, position, -1), mask=m < M)
    tl.store(token_ptr + position, m // NUM_CHOSEN, mask=exists)
    tl.store(token_ptr + m, tl.full((BLOCK,), -1, tl.int32), mask=(m >= num_rows) & (m < M))  # rows that nobody fills


def sort_by_expert(experts: torch.Tensor, num_experts: int) -> Order:
    """experts int32[T,k], E = num_experts -> Order(offsets int32[E+1], token int32[M], position int32[T,k]), M = T * k.

    A stable sort: the rows of an expert are in the order of (t, j), so the result is the same in every run, and the
    rows of experts that lie together (those of one rank) are one segment. An expert outside 0..E-1 cannot be an error
    without waiting for the device: such an assignment is dropped. Its position is -1, `permute` leaves no row for it,
    `unpermute` adds nothing. The M - offsets[E] rows at the end that are then free have token -1.
    One launch for up to 256 assignments, else three. E <= 1024, M <= 2^31 - 256. Raises ValueError.
    """
    t, k = (sizes(experts=(experts, "T k"))[letter] for letter in "Tk")
    check_integers(experts=experts)
    device = check_device(experts=experts)
    if not 1 <= num_experts <= MAX_EXPERTS:
        raise ValueError(f"num_experts={num_experts}: 1..{MAX_EXPERTS} experts are supported")
    m = t * k
    if m > 2**31 - BLOCK:  # indices are 32 bits wide
        raise ValueError(f"experts{tuple(experts.shape)}: {m} assignments, at most 2^31 - {BLOCK} are supported")
    token = torch.empty(m, dtype=torch.int32, device=device)
    position = torch.empty(t, k, dtype=torch.int32, device=device)
    if not m:
        return Order(torch.zeros(num_experts + 1, dtype=torch.int32, device=device), token, position)
    experts = experts.contiguous()
    offsets = torch.empty(num_experts + 1, dtype=torch.int32, device=device)
    num_blocks, block_e = cdiv(m, BLOCK), max(32, triton.next_power_of_2(num_experts))
    counts = totals = None
    if num_blocks > 1:
        counts = torch.empty(num_experts, num_blocks, dtype=torch.int32, device=device)
        totals = torch.empty(num_experts, dtype=torch.int32, device=device)
        launch(_count_kernel, (num_blocks,), experts, counts, m, num_experts, num_blocks, BLOCK=BLOCK, BLOCK_E=block_e)
        launch(_scan_kernel, (num_experts,), counts, totals, num_blocks, BLOCK=BLOCK, num_warps=1)
    args = experts, counts, totals, offsets, token, position, m, num_experts, num_blocks, k, num_blocks == 1
    launch(_place_kernel, (num_blocks,), *args, BLOCK=BLOCK, STRIP=STRIP, BLOCK_E=block_e)
    return Order(offsets, token, position)
