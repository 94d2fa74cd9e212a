"""Waiting for ranks: all their sockets and the launch server's together, until all have answered or one failed."""

from __future__ import annotations

import pickle
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from shardlab.launch import pickles
from shardlab.launch.errors import Failure, LaunchError
from shardlab.launch.frames import Channel

_TICK_S = 0.1
_GRACE_S = 0.3  # after the first failure: another rank may have failed before it, and its news be on the way


class Gather:
    """The replies of the ranks in `active` to one request, and what went wrong."""

    def __init__(self, control: Channel, ranks: Sequence[Channel], active: Sequence[int], pids: dict[int, int]) -> None:
        self.control, self.ranks, self.active, self.pids = control, ranks, active, pids
        self.replies: dict[int, tuple[Any, ...]] = {}
        self.failures: dict[int, Failure] = {}
        self.details: dict[int, Any] = {}  # rank -> its exception, as boot tells it
        self.exit_codes: dict[int, int] = {}
        self._lost: dict[int, float] = {}
        self._selector = selectors.DefaultSelector()

    @property
    def missing(self) -> list[int]:
        """Ranks that have neither answered nor failed."""
        return [r for r in self.active if r not in self.replies and r not in self.failures]

    def wait(self, deadline: float, stuck: Callable[[set[int]], Failure | None] | None = None) -> bool:
        """True when every active rank has replied; False when one failed, or at the deadline (with no `failures`).

        `stuck` is given the ranks that have answered, and asked now and then whether the others still can.
        """
        end, ask = deadline, time.monotonic() + _TICK_S
        with self._listening():
            while self.missing:
                self._select(min(_TICK_S, end - time.monotonic()))
                now = time.monotonic()
                if stuck is not None and now > ask and not self.failures and self.replies and self.missing:
                    ask = now + _TICK_S
                    failure = stuck(set(self.replies))
                    if failure is not None:
                        self.failures[failure.rank] = failure
                        return False
                if (self.failures or self._lost) and end == deadline:
                    end = min(deadline, now + _GRACE_S)
                if now >= end:
                    break
        for rank, when in self._lost.items():
            if rank in self.missing:
                self.failures[rank] = Failure(rank, when, "died", "closed its connection")
        return not self.missing and not self.failures

    def poll(self) -> bool:
        """Take in what has arrived. True while every rank lives."""
        with self._listening():
            self._select(0)
        return not self.failures and not self._lost

    def wait_for_exits(self, deadline: float) -> dict[int, int]:
        """Rank -> exit code of those that have ended by the deadline."""
        with self._listening():
            while len(self.exit_codes) < len(self.active) and time.monotonic() < deadline:
                self._select(min(_TICK_S, deadline - time.monotonic()))
        return self.exit_codes

    def _listening(self) -> selectors.BaseSelector:
        for channel in (self.control, *self.ranks):
            if channel.closed:
                self._hear_end(channel)
            else:
                self._selector.register(channel, selectors.EVENT_READ)
        return self._selector

    def _select(self, timeout: float) -> None:
        for rank in self.active:
            channel = self.ranks[rank]
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.has_output else 0)
            if not channel.closed and self._selector.get_key(channel).events != wanted:
                self._selector.modify(channel, wanted)
        for key, events in self._selector.select(max(0.0, timeout)):
            channel = key.fileobj
            assert isinstance(channel, Channel)
            if events & selectors.EVENT_WRITE:
                channel.write()
            if events & selectors.EVENT_READ:
                for message in channel.read():
                    self._hear(channel, message)
            if channel.closed:
                self._selector.unregister(channel)
                self._hear_end(channel)

    def _hear(self, channel: Channel, message: bytes) -> None:
        if channel is self.control:
            self._hear_server(pickle.loads(message))  # noqa: S301  (our own process, our own socket pair)
            return
        rank, reply = self.ranks.index(channel), pickles.loads(message)
        if reply[0] == "error":
            _, _, when, kind, text, chain = reply
            self.failures[rank] = Failure(rank, when, kind, text)
            self.details[rank] = chain
        else:
            self.replies[rank] = reply

    def _hear_server(self, message: tuple[Any, ...]) -> None:
        if message[0] == "started":
            self.pids.update(message[1])
        elif message[0] == "ended":
            _, rank, code, when = message
            self.exit_codes[rank] = code
            if rank not in self.replies and rank not in self.failures:
                self.failures[rank] = Failure(rank, when, "died", describe_exit(code))

    def _hear_end(self, channel: Channel) -> None:
        if channel is self.control:
            raise LaunchError("the launch server is gone (killed?), and the ranks with it. Run again: a new one starts")
        self._lost.setdefault(self.ranks.index(channel), time.monotonic())


def describe_exit(code: int) -> str:
    """What an exit code says: "exited with code 13", "was killed by SIGSEGV"."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory? The system kills the largest process)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
