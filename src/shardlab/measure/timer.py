"""Times of things that are to be compared: taken in turns, because this machine drifts.

A clock on a shared machine wanders by a factor of two between one minute and the next. What survives is the
comparison within one round, so every contender runs once a round, in an order that rotates.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stats:
    """Seconds of one contender, one sample a round, in the order of the rounds."""

    samples_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.samples_s:
            raise ValueError("no samples: at least one round is needed")

    @property
    def median_s(self) -> float:
        return statistics.median(self.samples_s)

    @property
    def p10_s(self) -> float:
        return self.percentile_s(10)

    @property
    def p90_s(self) -> float:
        return self.percentile_s(90)

    def percentile_s(self, percent: float) -> float:
        """Linear interpolation between the two nearest samples."""
        ordered = sorted(self.samples_s)
        place = (len(ordered) - 1) * percent / 100
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (ordered[above] - ordered[below]) * (place - below)

    def __str__(self) -> str:
        unit, scale = _unit(self.median_s)
        low, middle, high = (value * scale for value in (self.p10_s, self.median_s, self.p90_s))
        return f"{middle:.3g} {unit} ({low:.3g}-{high:.3g})"


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int = 5,
    *,
    warmup: int = 1,
    on_round: Callable[[int], None] | None = None,
) -> dict[str, Stats]:
    """Time each contender `rounds` times, one after the other within a round, the order rotating.

    Each is called `warmup` times first, unmeasured. A contender that returns a float has timed itself, in
    seconds (ranks do, with their own clocks); otherwise the call is timed from outside. `on_round` is called
    with the number of rounds done, for a progress bar. Raises ValueError for no contender or fewer than one round.
    """
    if not contenders:
        raise ValueError("nothing to time: contenders is empty")
    if rounds < 1 or warmup < 0:
        raise ValueError(f"rounds={rounds}, warmup={warmup}: at least one round, and no negative warm-up")
    names = list(contenders)
    for name in names:
        for _ in range(warmup):
            contenders[name]()
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            samples[name].append(_seconds(contenders[name]))
        if on_round is not None:
            on_round(number + 1)
    return {name: Stats(tuple(values)) for name, values in samples.items()}


def ratio(numerator: Stats, denominator: Stats) -> Stats:
    """Round by round numerator / denominator: the drift of the machine cancels within a round."""
    pairs = zip(numerator.samples_s, denominator.samples_s, strict=True)
    return Stats(tuple(above / below for above, below in pairs))


def slowest(per_rank: Sequence[float]) -> float:
    """A collective has ended when its last rank has: the largest of the ranks' own seconds."""
    if not per_rank:
        raise ValueError("no rank reported a time")
    return max(per_rank)


def _seconds(contender: Callable[[], object]) -> float:
    started = time.perf_counter()
    returned = contender()
    elapsed = time.perf_counter() - started
    return returned if isinstance(returned, float) else elapsed


def _unit(seconds: float) -> tuple[str, float]:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return unit, scale
    return "ns", 1e9
