"""Times as the ranks write them down, one by one, in a file that the notebook reads meanwhile.

A rank's samples reach the notebook when its program returns, and not at all when the program is interrupted. So each
rank also writes every sample into its own row of a shared file at once. The notebook sees in it how far the
ranks are, and keep what was measured when it stops them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shardlab.measure.timer import Stats, slowest


class Journal:
    """samples[T, cells, rounds] in seconds, and expected[T, cells]: what one sample will take. NaN: not yet."""

    def __init__(self, path: str | Path, world_size: int, num_cells: int, rounds: int, *, create: bool = False) -> None:
        """Open the file at `path`; `create` makes it first (the notebook does, before the ranks open it)."""
        self.path, self.rounds = str(path), rounds
        shape = (world_size, num_cells, 1 + rounds)
        self._table = np.memmap(self.path, np.float64, "w+" if create else "r+", shape=shape)
        if create:
            self._table[:] = math.nan

    def expect(self, rank: int, cell: int, seconds: float) -> None:
        """What one sample of a cell will take, its unmeasured calls included."""
        self._table[rank, cell, 0] = seconds

    def write(self, rank: int, cell: int, round: int, seconds: float) -> None:
        self._table[rank, cell, 1 + round] = seconds

    def stats(self, cell: int) -> Stats | None:
        """The rounds that every rank has finished, each as its slowest rank saw it; None before the first."""
        samples = self._table[:, cell, 1:].T.tolist()
        complete = [slowest(per_rank) for per_rank in samples if not any(math.isnan(value) for value in per_rank)]
        return Stats(tuple(complete)) if complete else None

    def progress(self, guesses_s: Sequence[float]) -> tuple[float, float]:
        """(seconds of work done, seconds in all) by rank 0's row; a guess stands in for what is not estimated yet."""
        expected = self._table[0, :, 0]
        cost = np.where(np.isnan(expected), np.asarray(guesses_s), expected)
        done = cost @ (~np.isnan(self._table[0, :, 1:])).sum(axis=1)
        return float(done), float(cost.sum() * self.rounds)
