"""What one rank's collectives did in one run: the list of transfers, and the entry in the flight table.

`comm` is the only writer. The recorder knows nothing of torch: it is told an operation, a description and a number
of bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from shardlab.theory.ledger import Transfer
from shardlab.theory.traffic import Route

# One partner or a few, not the whole axis: ranks do not count these alike, and there is nothing to compare.
POINT_TO_POINT = ("send", "recv", "exchange")


class FlightTable(Protocol):
    """The shared table of "who is in which collective" (shardlab.comm.table.Flight)."""

    def enter(self, axis: str, ranks: tuple[int, ...], fingerprint: str, check: bool) -> None: ...

    def leave(self) -> None: ...


class Recorder:
    """Collects the Transfers of one run, and posts each collective in the flight table while it lasts."""

    def __init__(self, flight: FlightTable | None = None) -> None:
        self.flight = flight
        self.check = False
        self.transfers: list[Transfer] = []

    def start(self, *, check: bool) -> None:
        """Forget the last run. With `check`, ranks compare op, shape and dtype before each collective."""
        self.check = check and self.flight is not None
        self.transfers = []

    @contextmanager
    def collective(
        self,
        op: str,
        axis: str,
        ranks: tuple[int, ...],
        detail: str,
        num_bytes: int,
        *,
        clocked: bool = True,
        route: Route | None = None,
    ) -> Iterator[None]:
        """Wrap one collective. `detail` (shape and dtype) must be equal on all `ranks`; seconds are the caller's wait.

        On an asynchronous device the call returns before the bytes have moved: pass clocked=False, and the
        Transfer carries no seconds rather than wrong ones. `route` says who sent how much to whom where the op alone
        does not: traffic.NO_WIRE where no socket sees it.
        """
        if self.flight is not None:
            self.flight.enter(axis, ranks, f"{op} {detail}", self.check and op not in POINT_TO_POINT)
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            if self.flight is not None:
                self.flight.leave()
        if num_bytes:
            self.transfers.append(Transfer(op, axis, num_bytes, seconds if clocked else None, route))
