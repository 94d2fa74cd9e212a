"""Which KV head each query head reads: grouped-query attention without repeating K and V.

Ainslie et al. 2023, arXiv 2305.13245.

A rank of a sharded model may hold uneven groups: 9 query heads on 4 ranks leave one rank with kv_index (0, 0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch

from shardlab_kernels.checks import check_integers


@dataclass(frozen=True, eq=False)
class HeadMap:
    """Make it once, with `even` or `of`, and keep it: it lives on the device, and a CUDA graph may hold its address."""

    kv_index: torch.Tensor  # int32[N]: query head n reads KV head kv_index[n]
    start: torch.Tensor  # int32[K+1]: KV head k is read by the query heads start[k] .. start[k+1] - 1, maybe by none
    widest: int  # query heads of the largest group

    @staticmethod
    def even(num_heads: int, num_kv_heads: int, device: torch.device) -> HeadMap:
        """Groups of num_heads / num_kv_heads. Made once for each size and device. Raises ValueError if uneven."""
        return _even(num_heads, num_kv_heads, device)

    @staticmethod
    def of(kv_index: Sequence[int], num_kv_heads: int, device: torch.device) -> HeadMap:
        """Any groups of neighbours. Raises ValueError unless kv_index is nondecreasing and within 0..num_kv_heads-1."""
        index = [int(kv) for kv in kv_index]
        if any(after < before for before, after in pairwise(index)):
            raise ValueError(f"kv_index={index}: a nondecreasing list is needed, one KV head's readers side by side")
        if index and not 0 <= index[0] <= index[-1] < num_kv_heads:
            raise ValueError(f"kv_index={index}: KV heads 0..{num_kv_heads - 1} are held here")
        start = [sum(kv < k for kv in index) for k in range(num_kv_heads + 1)]
        return HeadMap(
            torch.tensor(index, dtype=torch.int32, device=device),
            torch.tensor(start, dtype=torch.int32, device=device),
            max((after - before for before, after in pairwise(start)), default=0),
        )


@cache  # never evicts: a CUDA graph may still read what a call of long ago made
def _even(num_heads: int, num_kv_heads: int, device: torch.device) -> HeadMap:
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        raise ValueError(
            f"N={num_heads} query heads do not divide over K={num_kv_heads} KV heads: give a HeadMap.of(...)"
        )
    group = num_heads // num_kv_heads
    return HeadMap.of([n // group for n in range(num_heads)], num_kv_heads, device)


def check_heads(heads: HeadMap | None, num_heads: int, num_kv_heads: int, device: torch.device) -> HeadMap:
    """-> heads, or the even map where it is None. Raises ValueError for a map of other sizes, dtype or device."""
    if heads is None:
        return HeadMap.even(num_heads, num_kv_heads, device)
    check_integers(**{"heads.kv_index": heads.kv_index, "heads.start": heads.start})
    found = tuple(heads.kv_index.shape), tuple(heads.start.shape)
    if found != ((num_heads,), (num_kv_heads + 1,)):
        raise ValueError(
            f"heads has kv_index{found[0]} and start{found[1]}: kv_index({num_heads},) and start({num_kv_heads + 1},) "
            f"are needed for N={num_heads} query heads and K={num_kv_heads} KV heads"
        )
    if heads.kv_index.device != device:
        raise ValueError(f"heads is on {heads.kv_index.device}, q on {device}: one device is needed")
    return heads
