"""Split a sum over K among programs, and finish it in the same launch, with the same bits every time.

A skinny product has few tiles of output, too few to keep every multiprocessor reading. So SPLITS programs share a tile:
each sums its part of K and leaves it in an fp32 workspace; the one that arrives last adds the parts in split order and
stores the result. Who is last changes from run to run, the order of the additions does not. "Stream-K" and split-K
with a fix-up in the same launch: Osama et al. 2023, arXiv 2301.03598.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shardlab_kernels.launch import num_multiprocessors

POOL, MOST_POOLED = 1 << 20, 4096  # counters kept, and those that one call may take of them
MAX_SPLITS = 16  # beyond it the last program's own reading takes longer than what the split saves


def count_splits(tiles: int, steps: int, device: torch.device, *, per_sm: int = 2, least_steps: int = 2) -> int:
    """-> a power of two, 1..MAX_SPLITS: programs a tile, so that tiles * splits come near per_sm a multiprocessor.

    tiles: tiles of the output. steps: steps of the loop over K; each split keeps at least `least_steps` of them.
    From sizes alone: the same sizes on the same device always split alike.
    """
    most = min(MAX_SPLITS, per_sm * num_multiprocessors(device) // tiles, steps // least_steps)
    return 1 << (max(1, most).bit_length() - 1)


def split_buffers(
    splits: int, num_elements: int, tiles: int, device: torch.device
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """-> (workspace fp32[splits, num_elements], counters int32[tiles] of zeros); (None, None) for one split.

    The workspace is made anew for each call, and both can be captured in a CUDA graph.
    """
    if splits == 1:
        return None, None
    return torch.empty(splits, num_elements, dtype=torch.float32, device=device), _zeros(tiles, device)


def _zeros(tiles: int, device: torch.device) -> torch.Tensor:
    """Counters out of a pool of zeros: filling them for each call would be a kernel more for each product of a decoder.

    Who used counters has left zeros there. Calls that are captured keep theirs for good, so that graphs share none.
    Others take turns: no queue holds so many launches that a part would come round while it is in use.
    """
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if device.type != "cuda" or tiles > MOST_POOLED or (capturing and device not in _pools):
        return torch.zeros(tiles, dtype=torch.int32, device=device)
    if device not in _pools:
        _pools[device] = _Pool(torch.zeros(2, POOL, dtype=torch.int32, device=device))
        torch.cuda.synchronize(device)  # other streams will use them too
    pool = _pools[device]
    first = pool.used[capturing]
    if first + tiles > POOL:
        if capturing:
            return torch.zeros(tiles, dtype=torch.int32, device=device)  # a node of the graph
        first = 0
    pool.used[capturing] = first + tiles
    return pool.counters[int(capturing), first : first + tiles]


class _Pool:
    def __init__(self, counters: torch.Tensor) -> None:
        self.counters = counters  # int32[2, POOL]: for calls that run at once, and for those that are captured
        self.used = [0, 0]


_pools: dict[torch.device, _Pool] = {}


def workspace_bytes(splits: int, num_elements: int) -> int:
    """What the finish moves besides the output, from sizes: each part written once and read once, in fp32."""
    return 0 if splits == 1 else 2 * splits * num_elements * 4


@triton.jit
def my_part_of_k(K, split, SPLITS: tl.constexpr, BLOCK_K: tl.constexpr):
    """-> (first, end): this split's share of K, in whole blocks; the last shares may be short or empty."""
    share = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLITS) * BLOCK_K
    first = split * share
    return first, tl.minimum(first + share, K)


@triton.jit
def finish_split(
    acc, bias, out_ptr, offsets, inside, workspace_ptr, counters_ptr, num_elements, tile, split, SPLITS: tl.constexpr
):
    """out[offsets] = sum over the splits of acc, + bias, rounded once. Every program of the grid calls it once.

    acc: this program's part, an fp32 tensor of any shape. bias: fp32, broadcast against acc, or 0.0. offsets, inside:
    acc's shape (or broadcast to it); where its elements go in `out` and whether they exist. num_elements: elements of
    out, and of one part in the workspace. tile: which tile of out, 0..tiles-1. split: which part of K, an int32 tensor
    0..SPLITS-1 (a program_id). workspace_ptr, counters_ptr: from split_buffers; None where SPLITS is 1.
    """
    if SPLITS == 1:
        tl.store(out_ptr + offsets, (acc + bias).to(out_ptr.dtype.element_ty), mask=inside)
    else:
        tl.store(workspace_ptr + split.to(tl.int64) * num_elements + offsets, acc, mask=inside)
        # Every thread's part is stored before one thread counts it (release); who then sees the full count sees
        # every part (acquire). The read goes to L2 (.cg), where other multiprocessors' parts are.
        tl.debug_barrier()
        arrived = tl.atomic_add(counters_ptr + tile, 1, sem="acq_rel")
        if arrived == SPLITS - 1:
            total = tl.zeros_like(acc)
            for part in tl.static_range(SPLITS):  # its own part too: the order must not depend on who is last
                part_ptr = workspace_ptr + tl.cast(part, tl.int64) * num_elements
                total += tl.load(part_ptr + offsets, mask=inside, other=0.0, cache_modifier=".cg")
            tl.store(out_ptr + offsets, (total + bias).to(out_ptr.dtype.element_ty), mask=inside)
            tl.store(counters_ptr + tile, 0)  # ready for a replay
