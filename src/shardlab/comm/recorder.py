"""What one rank's collectives did in one run: the list of transfers, and the entry in the flight table.

`comm` is the only writer. The recorder knows nothing of torch: it is given an operation, a description and a number
of bytes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from shardlab.theory.ledger import Transfer
from shardlab.theory.traffic import Route

# One partner or a few, not the whole axis: ranks do not count these alike, and there is nothing to compare.
POINT_TO_POINT = ("send", "recv", "exchange")


Empty = tuple[str, str, Route | None]  # op, axis, route of a call that had nothing to send


class FlightTable(Protocol):
    """The shared table of "who is in which collective" (shardlab.comm.flight.Flight)."""

    def enter(
        self, axis: str, ranks: tuple[int, ...], fingerprint: str, check: bool, *, posted: bool = False
    ) -> Any: ...

    def wait(self, entry: Any, check: bool) -> None: ...

    def leave(self, entry: Any) -> None: ...


class NeverWaited(RuntimeError):
    """A program ended with transfers that it had posted and never waited for."""


class Posted:
    """One posted call while it is open: its entry in the flight table, its transfers, and what must live until then."""

    def __init__(self, op: str, axis: str, entry: Any, check: bool, transfers: list[Transfer], keep: Any) -> None:
        self.op, self.axis, self.entry, self.check, self.transfers, self.keep = op, axis, entry, check, transfers, keep
        self.works: Sequence[Any] = ()  # the backend's own: where nobody held those of an open exchange, gloo hung


class Recorder:
    """Collects the Transfers of one run, and shows each collective in the flight table while it lasts."""

    def __init__(self, flight: FlightTable | None = None) -> None:
        self.flight = flight
        self.check = False
        self.transfers: list[Transfer] = []  # in the order in which they were entered, or posted
        self.empty: Counter[Empty] = Counter()  # calls without payload, barriers too: not nothing on the wire
        self.open: dict[Posted, None] = {}  # posted and not waited for, the first posted first

    def start(self, *, check: bool) -> None:
        """Forget the last run. With `check`, ranks compare op, shape and dtype of each collective."""
        self.check = check and self.flight is not None
        self.transfers, self.empty, self.open = [], Counter(), {}

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
    ) -> AbstractContextManager[None]:
        """Wrap one collective. `detail` (shape and dtype) must be equal on all `ranks`; seconds are the caller's wait.

        On an asynchronous device the call returns before the bytes have moved: pass clocked=False, and the
        Transfer carries no seconds rather than wrong ones. `route` says who sent how much to whom where the op alone
        does not: traffic.NO_WIRE where no socket sees it.
        """
        sent = [] if op == "recv" else [Transfer(op, axis, num_bytes, route=route)]
        return self.step(op, axis, ranks, detail, sent, clocked=clocked)

    @contextmanager
    def step(
        self, op: str, axis: str, ranks: tuple[int, ...], detail: str, sent: list[Transfer], *, clocked: bool = True
    ) -> Iterator[None]:
        """`collective` for a call that is several transfers at once: each carries the seconds of the whole."""
        entry = None
        if self.flight is not None:
            check = self.check and op not in POINT_TO_POINT
            entry = self.flight.enter(axis, ranks, f"{op} {detail}", check)
        self._record(sent)
        started = time.perf_counter()
        try:
            yield
        except BaseException:
            self._forget(sent)
            raise
        finally:
            seconds = time.perf_counter() - started
            if entry is not None and self.flight is not None:
                self.flight.leave(entry)
        if clocked:
            _clock(sent, seconds)

    def _record(self, sent: list[Transfer]) -> None:
        for one in sent:
            if one.num_bytes:
                self.transfers.append(one)
            else:
                self.empty[one.op, one.axis, one.route] += 1

    def _forget(self, sent: list[Transfer]) -> None:
        self.transfers[:] = [one for one in self.transfers if not any(one is failed for failed in sent)]

    # ------------------------------------------------------------------------------------------- post and wait

    def post(self, op: str, axis: str, ranks: tuple[int, ...], detail: str, sent: list[Transfer], keep: Any) -> Posted:
        """Note that a call is about to be posted. `keep`: tensors that must not be freed before it is waited for."""
        entry, check = None, self.check and op not in POINT_TO_POINT
        if self.flight is not None:
            entry = self.flight.enter(axis, ranks, f"{op} {detail}", check, posted=True)
        posted = Posted(op, axis, entry, check, sent, keep)
        self._record(sent)
        self.open[posted] = None
        return posted

    def abandon(self, posted: Posted) -> None:
        """It could not be posted after all."""
        self.open.pop(posted, None)
        self._forget(posted.transfers)
        if self.flight is not None and posted.entry is not None:
            self.flight.leave(posted.entry)

    @contextmanager
    def waiting(self, posted: Posted) -> Iterator[None]:
        """Wrap the wait for what was posted."""
        if self.flight is not None and posted.entry is not None:
            self.flight.wait(posted.entry, posted.check)
        try:
            yield
        finally:
            self.open.pop(posted, None)
            if self.flight is not None and posted.entry is not None:
                self.flight.leave(posted.entry)

    def clock(self, posted: Posted, seconds: float) -> None:
        """Its transfers took the caller so long: what it was held up for, not what computation hid."""
        _clock(posted.transfers, seconds)

    def finish(self) -> None:
        """The program has returned. Raises NeverWaited, naming op and axis, for what it posted and left open."""
        if self.open:
            left = Counter(f"{posted.op} on {posted.axis}" for posted in self.open)
            names = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in left.items())
            raise NeverWaited(f"posted and never waited for: {names}. Call .wait() on what each comm.post_... returned")


def _clock(transfers: list[Transfer], seconds: float) -> None:
    # In place, so that it reaches whatever list the program has put them in by now; seconds is not compared or hashed.
    for one in transfers:
        object.__setattr__(one, "seconds", seconds)
