"""What can go wrong with ranks, one type each. Every one is a RuntimeError and says which rank."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """One rank's end: an exception that its program raised, or the death of its process."""

    rank: int
    time: float  # time.monotonic(), the same clock in every process of the machine
    kind: str  # name of the exception's type; or "died", "left", "late", and then the message is a verb
    message: str
    traceback: str = ""

    @property
    def is_echo(self) -> bool:
        """A rank that only lost its connection to another is the echo of a failure, never its cause."""
        echoes = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused", "Socket closed")
        return not self.is_verb and any(echo in self.message for echo in echoes)

    @property
    def is_verb(self) -> bool:
        return self.kind in ("died", "left", "late")

    def __str__(self) -> str:
        if self.is_verb:
            return f"rank {self.rank} {self.message}"
        return f"rank {self.rank}: {self.kind}: {self.message}".rstrip(": ")


class LaunchError(RuntimeError):
    """The ranks could not be started. The message says what to do."""


class RanksError(RuntimeError):
    """A run failed. All ranks have been stopped; the next run starts fresh ones."""

    def __init__(self, message: str, failures: list[Failure]) -> None:
        super().__init__(message)
        self.failures = failures

    @property
    def rank(self) -> int:
        """The rank to look at first."""
        return self.failures[0].rank


class RankError(RanksError):
    """The program raised on a rank, or a rank left before a collective that the others wait in."""


class RankDied(RanksError):
    """A rank's process ended: an exit code or a signal."""


class RankTimeout(RanksError):
    """Not every rank answered in time."""
