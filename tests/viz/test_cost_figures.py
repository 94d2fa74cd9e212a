"""Labs 01 and 07: a line is where the formula is, a point where the clock was, and nonsense is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from shardlab import viz
from shardlab.measure.point import Point
from shardlab.theory.collectives import time_s
from shardlab.theory.hardware import cluster, link
from shardlab.theory.plan import Workload, search
from shardlab.theory.transformer import MODELS
from shardlab.theory.units import bandwidth_text, seconds_text
from shardlab.viz.curves import TICKS
from tests.viz.cost_figures import CONTENDERS, bars, filled, forecast, gallery, times


def test_a_line_is_the_prediction_and_a_point_the_measurement() -> None:
    left = times().axes[0]
    lines = [line for line in left.get_lines() if line.get_linestyle() == "-" and len(np.asarray(line.get_xdata())) > 2]
    points = [line for line in left.get_lines() if line.get_linestyle() == "None"]
    assert [np.array_equal(line.get_xydata(), one.line) for line, one in zip(lines, CONTENDERS, strict=True)] == [
        True
    ] * 3
    medians = [[point[:2] for point in one.points] for one in CONTENDERS]
    assert [np.array_equal(mark.get_xydata(), one) for mark, one in zip(points, medians, strict=True)] == [True] * 3
    assert len({str(mark.get_marker()) for mark in points}) == len(points)  # told apart without colour
    assert [line.get_color() for line in lines] == [mark.get_color() for mark in points]


def test_a_curve_keeps_its_colour_from_panel_to_panel() -> None:
    figure = times()
    colors = [[line.get_color() for line in ax.get_lines() if line.get_linestyle() == "None"] for ax in figure.axes]
    assert colors[0] == colors[1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [one.label for one in CONTENDERS]


def test_the_gallery_counts_in_tensors() -> None:
    texts = [text.get_text() for text in gallery(4).axes[0].texts]
    assert texts[:4] == ["-", "0", "0", "1.5"]
    assert not gallery(8).axes[0].texts


def rectangles(ax: Axes) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def test_bars_end_where_their_value_is() -> None:
    ax = bars().axes[0]
    ends = [patch.get_x() + patch.get_width() for patch in rectangles(ax)]
    assert ends == pytest.approx([4.6e6, 16e3])
    widths = np.array([patch.get_width() for patch in rectangles(filled().axes[0])]).reshape(3, 2)
    assert widths[:, 0].sum() == pytest.approx(80e9)
    assert widths[2, 1] == 0  # what does not fit leaves no room
    heights = [patch.get_height() for patch in rectangles(forecast().axes[0])]
    assert heights == [0.1, 0.08]


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("sizes", 65536, "64 KiB"),
        ("bandwidth", 2e9, "2 GB/s"),
        ("percent", 0.15, "+15 %"),
        ("percent", 0, "0"),
        ("seconds", 0.05, "50 ms"),
        ("number", 8, "8"),
    ],
)
def test_ticks_say_their_unit(unit: str, value: float, text: str) -> None:
    assert TICKS[unit](value, None) == text


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: viz.curves([]), "one to three panels"),
        (lambda: viz.curves(viz.Panel([])), "one to three panels"),
        (lambda: viz.curves(viz.Panel(CONTENDERS, y="furlongs")), "y='furlongs'; allowed: seconds"),
        (lambda: viz.traffic_gallery({}, 1), "0 matrices"),
        (lambda: viz.traffic_gallery({"a": [[1, 2]]}, 1), r"a: .*\(1, 2\)"),
        (lambda: viz.traffic_gallery({"a": [[1]]}, 0), "unit_bytes=0"),
        (lambda: viz.log_bars([viz.LogBar("a", 0)], "x"), "above 0"),
        (lambda: viz.memory([], 1), "at least one row"),
        (lambda: viz.forecasts({}, "x"), "one to four panels"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call: Callable[[], Figure], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def point(num_bytes: int, median_s: float, op: str = "all_reduce") -> Point:
    return Point(
        op=op,
        algorithm="ring",
        transport="backend",
        backend="gloo",
        world_size=4,
        num_bytes=num_bytes,
        median_s=median_s,
        p10_s=median_s / 2,
        p90_s=2 * median_s,
        algbw_Bps=0.0,
        busbw_Bps=0.0,
        steps=6,
        sent_bytes=0,
        counted="recorded",
        traffic=(),
        rounds=5,
    )


def test_a_sweep_becomes_a_curve() -> None:
    points = [point(4096, 2e-3), point(1024, 1e-3)]

    def model(size: float) -> float:
        return size * 1e-6

    curve = viz.swept("ring", points, model)
    assert curve.points == [(1024, 1e-3, 5e-4, 2e-3), (4096, 2e-3, 1e-3, 4e-3)]
    assert [x for x, _ in curve.line] == pytest.approx([1024, 1448.2, 2048, 2896.3, 4096], rel=1e-4)
    assert all(y == pytest.approx(model(x)) for x, y in curve.line)
    # busbw = S / t * 2(n-1)/n, and a long time is a low bandwidth
    assert viz.swept_busbw("ring", points).points[1] == pytest.approx((4096, 3.072e6, 1.536e6, 6.144e6))
    assert viz.signed_errors("ring", points, model).points == [
        (1024, pytest.approx(0.024)),
        (4096, pytest.approx(1.048)),
    ]
    with pytest.raises(ValueError, match="one op"):
        viz.swept("two", [point(1, 1), point(1, 1, "broadcast")])


def test_the_knobs_of_lab_01_are_the_formulas() -> None:
    html = viz.bandwidth_knobs("all_reduce", "1 MB", 8, "nvlink4")
    seconds = time_s("all_reduce", num_bytes=1e6, world_size=8, link=link("nvlink4"))
    for text in ("1.75 MB", seconds_text(seconds), bandwidth_text(1e6 / seconds * 1.75), "450 GB/s"):
        assert f"<b>{text}</b>" in html
    with pytest.raises(ValueError, match="size='2 MB'"):
        viz.bandwidth_knobs("all_reduce", "2 MB", 8, "nvlink4")


def test_the_knobs_of_lab_07_are_the_search() -> None:
    asked = Workload(512, 256, slo_tpot_s=0.030, stored="int4")
    best = search(MODELS["llama-3-8b"], cluster("dgx-h100"), asked).ranked[0]
    html = viz.plan_knobs("int4", "30 ms", 512, model="llama-3-8b", cluster="dgx-h100")
    assert f"<b>{best.tokens_per_s_per_gpu:,.0f} tok/s</b>" in html and f"bound by {best.bound}" in html
    # 405B in bf16 over one node's links: a token takes longer than 15 ms however it is split
    slow = viz.plan_knobs("bf16", "15 ms", 512, model="llama-3-405b", cluster="dgx-h100:2")
    assert "No plan keeps it; the nearest needs" in slow
    with pytest.raises(ValueError, match="TPOT='1 ms'; allowed: 15 ms"):
        viz.plan_knobs("bf16", "1 ms", 512)
