"""Eight minutes, and what fits in them."""

from __future__ import annotations

import time
from collections.abc import Callable

RESERVE_S = 10.0  # the second measurement of the roofs, and the table
UNKNOWN_S = 20.0  # what a kernel that has not run yet may take: it compiles and tunes


class Budget:
    """Whether another case fits. A kernel that ran before is expected to take as long as its longest case."""

    def __init__(self, total_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + total_s
        self._took: dict[str, float] = {}

    @property
    def left_s(self) -> float:
        return self._end - self._now()

    def fits(self, kernel: str) -> bool:
        unknown = max([UNKNOWN_S, *self._took.values()])
        return self._took.get(kernel, unknown) + RESERVE_S <= self.left_s

    def took(self, kernel: str, seconds: float) -> None:
        self._took[kernel] = max(seconds, self._took.get(kernel, 0.0))
