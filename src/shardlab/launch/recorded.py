"""What recorded transfers put on the wire: payload by the formula, and gloo's framing around it, pair by pair.

gloo sends a message as a notice (48 bytes), a header (48) and the payload; the receiver sends one notice (48) back.
That is so for every message of every operation, however large, and was seen to the byte on 2, 3 and 4 ranks from 48
bytes to 12 MiB. Rings cut their parts into segments, each a message. So the framing is known, and is no excuse: a
difference of a whole message shows, in a decode step of 2 KB all_reduces too. What is left to tolerate:

- a share of the payload (`within`), for what nobody has thought of;
- where a length does not divide, 16 bytes a message: a ring's segments are whole elements;
- the framing of a ring's segments that are empty, and not sent, because the tensor has few elements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from shardlab.comm.recorder import Empty
from shardlab.theory import collectives
from shardlab.theory.degrees import Plan, axis_ranks
from shardlab.theory.ledger import Transfer
from shardlab.theory.traffic import Route

_FORWARD, _BACK = 96, 48  # bytes of a message's framing: with it, and against it
_FRAMING = _FORWARD + _BACK
_ELEMENT = 16  # bytes of the largest element there is, complex128: a record does not say which it was
_SEGMENT = 1 << 20  # gloo's largest segment of an all_reduce ring
Bytes = NDArray[np.float64]


class Recorded:
    """T x T matrices of a run: `payload`, `framing`, and `slack`, what one pair may differ by in absolute bytes."""

    def __init__(
        self, plan: Plan, transfers: Sequence[Sequence[Transfer]], empty: Sequence[Mapping[Empty, int]] = ()
    ) -> None:
        """transfers and empty calls: those of each rank. A rank's own record says what that rank sent, no more."""
        size = plan.world_size
        self.payload, self.framing, self.slack = (np.zeros((size, size)) for _ in range(3))
        for rank, sent in enumerate(transfers):
            counted = Counter((one.op, one.axis, one.num_bytes, one.route) for one in sent)
            for (op, axis, route), times in empty[rank].items() if empty else ():
                counted[op, axis, 0, route] += times
            for (op, axis, num_bytes, route), times in counted.items():
                if route is None or route.wire:
                    line = axis_ranks(rank, plan, axis)
                    row = _row(op, num_bytes, len(line), line.index(rank), route or Route())
                    self._add(rank, line, row, times)

    def _add(self, rank: int, line: tuple[int, ...], row: Row, times: int) -> None:
        for to, (num_bytes, messages, slack) in zip(line, row, strict=True):
            self.payload[rank, to] += times * num_bytes
            self.framing[rank, to] += times * messages * _FORWARD
            self.framing[to, rank] += times * messages * _BACK
            self.slack[rank, to] += times * slack
            self.slack[to, rank] += times * slack


Row = tuple[tuple[float, int, int], ...]  # for each rank of the axis: payload bytes, messages, bytes of slack


@cache
def _row(op: str, num_bytes: int, size: int, rank: int, route: Route) -> Row:
    """What `rank` of an axis of `size` ranks sends in one call."""
    if route.splits is not None:
        own = [0 if to == rank else num for to, num in enumerate(route.splits)]
        return tuple((num, int(to != rank), 0) for to, num in enumerate(own))
    if op == "send":
        assert route.peer is not None, "comm says to whom"
        return tuple((num_bytes, 1, 0) if to == route.peer else (0, 0, 0) for to in range(size))
    if op == "barrier":
        return _barrier(size, rank)
    matrix = collectives.traffic_matrix(op, max(num_bytes, 1), size, route.algorithm, src=route.peer or 0)
    messages, slack = _messages(op, num_bytes, size, route.algorithm)
    return tuple((sent if num_bytes else 0, messages, slack) if sent else (0, 0, 0) for sent in matrix[rank])


def _messages(op: str, num_bytes: int, size: int, algorithm: str | None) -> tuple[int, int]:
    """(messages to each rank that is sent anything, what their bytes may differ by)."""
    algorithm = algorithm or collectives.ALGORITHMS[op][0]
    if num_bytes == 0:  # a ring of nothing is not even started
        return int(algorithm not in ("ring", "all_reduce")), 0
    if (op, algorithm) == ("all_gather", "ring"):
        messages = 2 * (size - 1)  # two segments a shard, whatever its size
        return messages, messages * _FRAMING if num_bytes < 2 * size * _ELEMENT else 0
    if (op, algorithm) not in (("all_reduce", "ring"), ("reduce_scatter", "all_reduce")):
        return 1, 0
    segments = size * max(2, -(-num_bytes // (size * _SEGMENT)))
    messages = 2 * (size - 1) * segments // size
    if num_bytes % (segments * _ELEMENT) == 0:
        return messages, 0
    if num_bytes < segments**2 * _ELEMENT:  # the last ones may be empty, and are not sent then
        return messages, messages * (_ELEMENT + _FRAMING)
    return messages, messages * _ELEMENT


def _barrier(size: int, rank: int) -> Row:
    """An empty message to the ranks 1, 2, 4, ... further on."""
    distances = [1 << step for step in range((size - 1).bit_length())]
    to = Counter((rank + distance) % size for distance in distances)
    return tuple((0, to[other], 0) for other in range(size))
