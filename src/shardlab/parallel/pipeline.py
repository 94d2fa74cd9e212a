"""Stages in a row: each gets the hidden state of the stage before it, and hands its own to the next."""

from __future__ import annotations

from collections.abc import Callable

import torch

from shardlab import comm
from shardlab.comm.mesh import Axis


def relay(
    stage: Callable[[torch.Tensor | None], torch.Tensor], empty: Callable[[], torch.Tensor], pp: Axis
) -> torch.Tensor | None:
    """One microbatch through all stages in order -> what the last stage made, there; None on the others.

    `stage` is this rank's own: x[B,S,D] of the stage before (None on the first) -> [B,S,D]. `empty` makes the buffer
    that x is received into. One send a boundary, counted by the sender; on one stage nothing is sent.
    """
    before = None if pp.rank == 0 else comm.recv(empty(), pp, src=pp.rank - 1)
    after = stage(before)
    if pp.rank == pp.size - 1:
        return after
    comm.send(after, pp, dst=pp.rank + 1)
    return None


def from_last(tensor: torch.Tensor | None, empty: Callable[[], torch.Tensor], pp: Axis) -> torch.Tensor:
    """What the last stage has -> on every stage. One broadcast over pp. `empty` makes the others' buffer."""
    if tensor is None:
        tensor = empty()
    return comm.broadcast(tensor, pp, src=pp.size - 1)
