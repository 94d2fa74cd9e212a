"""Times of calls on a GPU: CUDA graphs over rotating inputs, taken in turns, the order rotating.

A GPU's clock wanders with its heat, so only times of one run, taken in turns, are compared. Inputs rotate, so that no
call finds its own in the L2 cache. A graph takes the host out: what is left is the kernel.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

ROUNDS = 15
ROUND_S = 3e-3  # one sample is at least this long: events resolve half a microsecond
MAX_REPEATS = 2000


@dataclass(frozen=True)
class Stats:
    """Seconds of one call, one sample a round."""

    samples_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return statistics.median(self.samples_s)

    @property
    def p10_s(self) -> float:
        return self._percentile_s(10)

    @property
    def p90_s(self) -> float:
        return self._percentile_s(90)

    def _percentile_s(self, percent: float) -> float:
        """Linear interpolation between the two nearest samples."""
        ordered = sorted(self.samples_s)
        place = (len(ordered) - 1) * percent / 100
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass(frozen=True)
class Prepared:
    """Something to time: `run()` makes `calls` calls. `first` is what call 0 returned, and a graph returns again."""

    run: Callable[[], object]
    calls: int
    captured: bool = True
    first: Any = None


def prepare(call: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> Prepared:
    """One call for each set of inputs, in one CUDA graph; without a graph where the call cannot be captured.

    `call` has run before: what is tuned or compiled at a first call is ready. Outputs are kept to the end of the graph,
    so that each call writes to memory of its own.
    """
    graph = torch.cuda.CUDAGraph()
    kept: list[Any] = []
    torch.cuda.synchronize()
    try:
        with torch.cuda.graph(graph):
            kept.extend(call(*one) for one in inputs)
        graph.replay()
        torch.cuda.synchronize()
    except Exception:  # it synchronises, or copies from the host
        kept.clear()
        torch.cuda.synchronize()
        return Prepared(lambda: [call(*one) for one in inputs], len(inputs), captured=False)
    return Prepared(graph.replay, len(inputs), first=kept[0])


def interleave(
    runs: Mapping[str, Prepared],
    *,
    rounds: int = ROUNDS,
    seconds: Callable[[Callable[[], object], int], float] | None = None,
) -> dict[str, Stats]:
    """Seconds of one call of each, `rounds` samples taken in turns. `seconds(run, repeats)` is the clock.

    Raises ValueError for fewer than five rounds: a median of less says little.
    """
    if rounds < 5:
        raise ValueError(f"rounds={rounds}: at least 5 are needed")
    seconds = gpu_seconds if seconds is None else seconds
    repeats = {name: _repeats(seconds(one.run, 1)) for name, one in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in _turn(list(runs), number):
            took = seconds(runs[name].run, repeats[name])
            samples[name].append(took / (repeats[name] * runs[name].calls))
    return {name: Stats(tuple(values)) for name, values in samples.items()}


def gpu_seconds(run: Callable[[], object], repeats: int) -> float:
    """Seconds between two events around `repeats` runs on the current stream."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    run()  # not timed: it keeps the GPU busy while the host queues what follows
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3


def num_copies(moved_bytes: int, l2_bytes: int) -> int:
    """How many sets of inputs: between two uses of one, three times the L2 cache goes by. 2..64."""
    return min(64, max(2, math.ceil(3 * l2_bytes / max(1, moved_bytes))))


def _repeats(run_s: float) -> int:
    return min(MAX_REPEATS, max(1, math.ceil(ROUND_S / max(run_s, 1e-9))))


def _turn(names: list[str], number: int) -> list[str]:
    first = number % len(names)
    return names[first:] + names[:first]
