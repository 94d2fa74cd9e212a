"""The project's own claims, measured on this machine: `python -m benchmarks` prints them as one table.

Each module here has `rows() -> list[Row]` and stands for a few of the claims. Every ratio is of two things
timed in turns in one run (measure.timer.interleave), the median of at least five rounds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, how it came out, and what was wanted.

    `goal` is its key in benchmarks/goals.toml ("C7"; "" for what only explains another row): the table shows its name.
    `met` is None where nothing was promised.
    """

    goal: str
    what: str
    measured: str
    wanted: str = ""
    met: bool | None = None
