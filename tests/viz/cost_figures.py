"""The figures of labs 01 and 07 with made-up numbers, for test_figures.py to look at."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from shardlab import viz
from shardlab.theory.collectives import traffic_matrix

SIZES = [1 << power for power in range(10, 27, 4)]


def curve(label: str, alpha_s: float, bandwidth_Bps: float) -> viz.Curve:
    line = [(float(size), alpha_s + size / bandwidth_Bps) for size in SIZES]
    return viz.Curve(label, line, [(x, 1.1 * y, y, 1.3 * y) for x, y in line])


CONTENDERS = [
    curve("ring, backend", 1e-3, 1e9),
    curve("one_shot, shared memory", 4e-5, 5e9),
    curve("two_shot, shared memory", 6e-5, 8e9),
]


def times() -> Figure:
    panel = viz.Panel(CONTENDERS, "all_reduce, 4 ranks", "size", "time", marks=[(2**18, "crossover")])
    errors = [viz.Curve(one.label, points=[(x, 0.1) for x in SIZES]) for one in CONTENDERS]
    return viz.curves([panel, viz.Panel(errors, "signed error", "size", y="percent", logy=False, band=0.15)])


def gallery(world_size: int) -> Figure:
    algorithms = ("ring", "recursive_doubling", "one_shot", "two_shot")
    sheets = {name: traffic_matrix("all_reduce", 1000, world_size, name) for name in algorithms}
    sheets["broadcast, tree"] = traffic_matrix("broadcast", 1000, world_size)
    return viz.traffic_gallery(sheets, 1000)


def bars() -> Figure:
    rows = [viz.LogBar("TP, 8 ranks", 4.6e6, "4.6 MB", 4.7e6), viz.LogBar("PP, one boundary", 16e3, "16 kB")]
    return viz.log_bars(rows, "bytes that a rank sends for one token", "bytes", "formula", "on the wire")


def filled() -> Figure:
    rows = [viz.Filled("tp8", 17.6e9, 8e9, "1.3 M tokens"), viz.Filled("tp1", 141e9, 8e9, "does not fit")]
    return viz.memory(rows, 80e9)


def forecast() -> Figure:
    plans = [viz.Forecast("dp4", 0.1, (0.11, 0.1, 0.13)), viz.Forecast("dp2 tp2", 0.08)]
    return viz.forecasts({"one request": plans, "64 requests": plans}, "time of one step")


COST_FIGURES: dict[str, Callable[[], Figure]] = {
    "curves": times,
    "gallery-4": lambda: gallery(4),
    "gallery-8": lambda: gallery(8),
    "log-bars": bars,
    "memory": filled,
    "forecasts": forecast,
}
