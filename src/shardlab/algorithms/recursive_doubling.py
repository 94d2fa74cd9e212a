"""Recursive doubling: the fewest steps. Pairs of ranks at distance 1, 2, 4, ... exchange all they have.

Thakur, Rabenseifner, Gropp 2005, section 4.
"""

from __future__ import annotations

import torch

from shardlab import comm
from shardlab.comm.mesh import Axis


def all_reduce(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A{X} -> A in log2(n) steps, two more where n is no power of two.

    Then the ranks beyond the largest power of two hand their tensor to a partner first, and get the sum back last.
    Both ranks of a pair add the same two numbers, lower rank first, so all end up with the same bits.
    """
    core = 1 << (axis.size.bit_length() - 1)
    rank, partner = axis.rank, axis.rank ^ core
    total, arriving = tensor.clone(), torch.empty_like(tensor)
    if rank >= core:
        comm.exchange({partner: total}, {}, axis)
        comm.exchange({}, {partner: total}, axis)
        return total
    if partner < axis.size:
        comm.exchange({}, {partner: arriving}, axis)
        total += arriving
    distance = 1
    while distance < core:
        peer = rank ^ distance
        comm.exchange({peer: total}, {peer: arriving}, axis)
        low, high = (total, arriving) if rank < peer else (arriving, total)
        torch.add(low, high, out=total)
        distance *= 2
    if partner < axis.size:
        comm.exchange({partner: total}, {}, axis)
    return total
