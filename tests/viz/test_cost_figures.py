"""Labs 01 and 07: a line is where the formula is, a point where the clock was, and nonsense is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tests.viz.cost_figures import CONTENDERS, bars, filled, forecast, gallery, times

from shardlab import viz
from shardlab.viz.curves import TICKS


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
