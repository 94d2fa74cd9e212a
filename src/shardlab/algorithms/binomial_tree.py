"""Binomial trees: the ranks that hold the tensor double with every step. Good for what one rank has and all want.

Thakur, Rabenseifner, Gropp 2005, section 3. A rank's place in the tree is its distance from the root, around the
ring of ranks. In round k, places 0 .. 2^k-1 talk to the places 2^k further on.
"""

from __future__ import annotations

import torch

from shardlab import comm
from shardlab.comm.mesh import Axis


def broadcast(tensor: torch.Tensor, axis: Axis, src: int = 0) -> torch.Tensor:
    """A on rank `src` -> A on every rank, in ceil(log2 n) steps. The other ranks' tensors give shape and dtype."""
    held = tensor.clone()
    _down(held, axis, src)
    return held


def all_reduce(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """A{X} -> A in 2 ceil(log2 n) steps: up the tree of rank 0, adding, and down again.

    Rank 0 alone makes the sum, so it is the same bits everywhere.
    """
    total = tensor.clone()
    _up(total, axis)
    _down(total, axis, 0)
    return total


def _down(held: torch.Tensor, axis: Axis, root: int) -> None:
    place = (axis.rank - root) % axis.size
    for reach in _rounds(axis.size):
        if place < reach and place + reach < axis.size:
            comm.exchange({(axis.rank + reach) % axis.size: held}, {}, axis)
        elif reach <= place < 2 * reach:
            comm.exchange({}, {(axis.rank - reach) % axis.size: held}, axis)


def _up(total: torch.Tensor, axis: Axis) -> None:
    arriving = torch.empty_like(total)
    for reach in reversed(_rounds(axis.size)):
        if reach <= axis.rank < 2 * reach:
            comm.exchange({axis.rank - reach: total}, {}, axis)
        elif axis.rank < reach and axis.rank + reach < axis.size:
            comm.exchange({}, {axis.rank + reach: arriving}, axis)
            total += arriving


def _rounds(size: int) -> list[int]:
    """1, 2, 4, ... below size: how far each round reaches."""
    return [1 << k for k in range((size - 1).bit_length())]
