"""What goes into a collective of a sweep, and what has to come out: whole numbers, which fp32 sums without error."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from shardlab.algorithms import Implementation
from shardlab.comm.mesh import Mesh
from shardlab.theory.split import even_split

ITEM_BYTES = 4  # fp32
_PERIOD = 1021  # values of an input: 0..1020 and the rank, so that fp32 adds up to 4,000 ranks exactly (below 2^24)


@dataclass(frozen=True)
class Cell:
    """One implementation at one size S (nccl-tests' size, see comm)."""

    implementation: Implementation
    num_bytes: int


def fitting_bytes(num_bytes: int, world_size: int) -> int:
    """`num_bytes` rounded down until every rank's share is whole: a multiple of 4 n, and at least that.

    nccl-tests rounds its sizes in the same way; the formulas for bytes are exact only there.
    """
    share = ITEM_BYTES * world_size
    return max(num_bytes // share, 1) * share


def base_of(mesh: Mesh, num_bytes: int) -> torch.Tensor:
    """0, 1, ... 1020, 0, 1, ... as fp32: whole numbers, so that every order of a sum gives the same bits."""
    return torch.arange(num_bytes // ITEM_BYTES, dtype=torch.float32, device=mesh.device).remainder_(_PERIOD)


def input_of(cell: Cell, base: torch.Tensor, rank: int, world_size: int) -> torch.Tensor:
    """What a rank puts in: the tensor of S bytes, or its share where S is the gathered result."""
    num_elements = cell.num_bytes // ITEM_BYTES
    if cell.implementation.op == "all_gather":
        num_elements //= world_size
    return base[:num_elements] + rank if rank else base[:num_elements]


def expected_of(cell: Cell, base: torch.Tensor, rank: int, world_size: int) -> torch.Tensor | None:
    """What must come out on `rank`, from the inputs of all; None where nothing comes out."""
    n = world_size
    whole = base[: cell.num_bytes // ITEM_BYTES]
    mine = even_split(len(whole), n)[rank]
    total = n * (n - 1) // 2  # what the ranks' own numbers add to a sum
    match cell.implementation.op:
        case "all_reduce":
            return whole * n + total
        case "reduce_scatter":
            return whole[mine.start : mine.stop] * n + total
        case "all_gather":
            local = whole[: len(whole) // n]
            return torch.cat([local + peer for peer in range(n)])
        case "all_to_all":
            return torch.cat([whole[mine.start : mine.stop] + peer for peer in range(n)])
        case "broadcast":
            return whole
        case _:  # send: from rank 0 to rank 1
            return whole if rank == 1 else None
