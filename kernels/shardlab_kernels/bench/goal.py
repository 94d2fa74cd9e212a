"""What a kernel is held to: the project's goals G1-G13 for one H100 or H200, as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Bar:
    """All of these at once; None asks nothing. `times` is rival -> how many times as fast as it ours must be."""

    of_copy: float | None = None  # fraction of the measured copy bandwidth
    of_gemm: float | None = None  # fraction of the measured GEMM rate
    flops_per_s: float | None = None
    at_most_s: float | None = None
    times: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Goal:
    name: str  # "G5"
    least: Bar
    aim: Bar


@dataclass(frozen=True)
class Score:
    """How ours came out."""

    seconds: float
    flops: int
    of_copy: float
    of_gemm: float
    rivals_s: Mapping[str, float]


def verdict(goal: Goal | None, score: Score) -> str:
    """-> 'G5 aim' (the ambitious bar), 'G5 met' (the least), 'G5 not', or 'G5 -' where a rival it names is missing.

    '-' for a case without a goal.
    """
    if goal is None:
        return "-"
    least = _passes(goal.least, score)
    if least is None:
        return f"{goal.name} -"
    return f"{goal.name} {('aim' if _passes(goal.aim, score) else 'met') if least else 'not'}"


def _passes(bar: Bar, score: Score) -> bool | None:
    """None: nothing failed, and a rival that the bar names was not timed."""
    done: list[bool | None] = []
    if bar.of_copy is not None:
        done.append(score.of_copy >= bar.of_copy)
    if bar.of_gemm is not None:
        done.append(score.of_gemm >= bar.of_gemm)
    if bar.flops_per_s is not None:
        done.append(score.flops / score.seconds >= bar.flops_per_s)
    if bar.at_most_s is not None:
        done.append(score.seconds <= bar.at_most_s)
    for rival, times in bar.times.items():
        rival_s = score.rivals_s.get(rival)
        done.append(None if rival_s is None else rival_s / score.seconds >= times)
    if False in done:
        return False
    return None if None in done else True
