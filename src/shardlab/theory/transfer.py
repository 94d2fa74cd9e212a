"""One collective over one axis: what comm records and what the ledger predicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from shardlab.theory.collectives import wire_bytes
from shardlab.theory.traffic import Route


@dataclass(frozen=True)
class Transfer:
    """One collective over one axis of the mesh.

    num_bytes is the size S of nccl-tests, not what goes over the wire (collectives.wire_bytes says that).
    all_reduce, broadcast, send: the tensor; all_gather: the whole gathered result; reduce_scatter and
    all_to_all: the whole input of a rank. seconds and route are for measurements and take no part in comparison, so a
    prediction equals a record of the same op, axis and bytes.
    """

    op: str
    axis: str
    num_bytes: int
    seconds: float | None = field(default=None, compare=False, repr=False)
    route: Route | None = field(default=None, compare=False, repr=False)


def sent_bytes(transfers: Iterable[Transfer], *, world_size: int) -> float:
    """What one rank sends for these transfers on `world_size` ranks, each with its default algorithm."""
    return sum(wire_bytes(one.op, num_bytes=one.num_bytes, world_size=world_size) for one in transfers)
