"""How far a sweep is, in seconds of predicted work: a bar that counted cells would say half when a tenth is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from shardlab.measure.journal import Journal
from shardlab.sweep.inputs import Cell
from shardlab.theory import collectives

# What an unmeasured call is taken to cost, for the first estimate of the time left: gloo on two cores, roughly.
_GUESS_STEP_S, _GUESS_Bps, _GUESS_COUNT_S = 3e-4, 1e9, 0.05
_WATCH_S = 0.2

Progress = Callable[[float, float, str], None]  # (seconds of work done, seconds in all, what is being done)


def guess(cell: Cell, degree: int, sample_s: float) -> float:
    """Seconds that one sample of a cell will probably take, before any was taken."""
    one, formula = cell.implementation, {"world_size": degree, "algorithm": cell.implementation.algorithm}
    latency_s = _GUESS_STEP_S * collectives.steps(one.op, **formula)
    # ranks of one machine share its memory: what all of them send goes through it
    call_s = latency_s + degree * collectives.wire_bytes(one.op, num_bytes=cell.num_bytes, **formula) / _GUESS_Bps
    return max(sample_s, call_s) + _GUESS_STEP_S


class Clock:
    """How much of the sweep is done, in seconds of predicted work, and how long its parts may take."""

    def __init__(
        self,
        cells: Mapping[int, Sequence[Cell]],
        rounds: int,
        *,
        sample_s: float,
        budget_s: float | None,
        tell: Progress | None,
    ) -> None:
        """`cells`: what is measured on each number of ranks."""
        self._tell, self._rounds, self._sample_s = tell, rounds, sample_s
        self.share_s = None if budget_s is None else budget_s / len(cells)
        self._left = {
            degree: sum(_GUESS_COUNT_S + guess(cell, degree, 0) for cell in group) + self._timing_s(group, degree)
            for degree, group in cells.items()
        }
        self._done = 0.0

    def counted(self, cell: Cell, degree: int) -> None:
        step_s = _GUESS_COUNT_S + guess(cell, degree, 0)
        self._done += step_s
        self._left[degree] -= step_s
        self._say(0.0, f"{degree} ranks: counting bytes")

    @contextmanager
    def timing(self, cells: Sequence[Cell], degree: int, journal: Journal) -> Iterator[None]:
        """While the ranks time `cells`, a thread reads their journal and tells how far they are."""
        guesses = [guess(cell, degree, self._sample_s) for cell in cells]
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_WATCH_S):
                done_s, all_s = journal.progress(guesses)
                self._left[degree] = all_s if self.share_s is None else min(all_s, self.share_s)
                self._say(done_s, f"{degree} ranks: timing")

        thread = threading.Thread(target=watch, name="shardlab-sweep", daemon=True)
        if self._tell is not None:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if self._tell is not None:
                thread.join()
            self._done += self._left.pop(degree)
        self._say(0.0, f"{degree} ranks: done")

    def _timing_s(self, cells: Sequence[Cell], degree: int) -> float:
        whole_s = sum(guess(cell, degree, self._sample_s) for cell in cells) * self._rounds
        return whole_s if self.share_s is None else min(whole_s, self.share_s)

    def _say(self, more_s: float, what: str) -> None:
        if self._tell is not None:
            self._tell(self._done + more_s, self._done + sum(self._left.values()), what)
