"""Every figure: drawn whole, in letters that can be read, small, and true to its numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from shardlab import viz
from shardlab.theory.collectives import traffic_matrix, wire_bytes
from shardlab.theory.roofline import Times
from shardlab.viz import display, style
from tests.viz.cost_figures import COST_FIGURES

MIB = 1 << 20


def sweeps() -> list[viz.Sweep]:
    line = [(t, wire_bytes("all_reduce", num_bytes=MIB, world_size=t)) for t in range(2, 9)]
    return [
        viz.Sweep("T, ranks", line, line[:3], "D 576, batch 2"),
        viz.Sweep("D, model width", [(256, 1e6), (4096, 1.6e7)], [(256, 1e6)], "T 3, batch 2"),
        viz.Sweep("batch", [(1, 1e6), (64, 6.4e7)]),
    ]


def timed() -> dict[str, list[viz.Timed]]:
    prefill = [viz.Timed(t, 0.1 / t, 0.1 / t + 0.02 * t, 0.1, 0.09, 0.13) for t in (1, 2, 3, 4)]
    return {
        "prefill, 256 tokens": prefill,
        "decode, 1 token": [viz.Timed(1, 0.01, 0.01), viz.Timed(2, 0.005, 0.02)],
    }


def step_figure() -> Figure:
    beliefs = {
        "bandwidth only": [0, 1e-6, 1e-6],
        "alpha and bandwidth": [0, 1e-3, 2e-3],
        "published": [0, 2e-3, 9e-3],
    }
    return viz.decode_step([1, 8, 16], [0.042, 0.005, 0.0026], beliefs)


FIGURES: dict[str, Callable[[], Figure]] = {
    **{f"split-{tp}": (lambda tp=tp: viz.mlp_split(tp)) for tp in (1, 2, 3, 4, 8)},
    "heads-9-3-4": lambda: viz.heads_on_ranks(9, 3, 4),
    "heads-64-8-16": lambda: viz.heads_on_ranks(64, 8, 16),
    "heads-8-8-1": lambda: viz.heads_on_ranks(8, 8, 1),
    "heads-64-8-64": lambda: viz.heads_on_ranks(64, 8, 64),
    "kv-9-3": lambda: viz.kv_cache(9, 3, 15e6, 8, [(1, 45e6), (2, 30e6), (3, 15e6), (4, 30e6)]),
    "kv-64-8": lambda: viz.kv_cache(64, 8, 5e9, 16),
    **{
        f"traffic-{t}": (lambda t=t: viz.traffic(traffic_matrix("all_reduce", 4 * MIB, t), np.ones((t, t))))
        for t in (1, 2, 4, 8)
    },
    "traffic-alone": lambda: viz.traffic([[0, 5], [7, 0]]),
    "volume-3": lambda: viz.volume(sweeps()),
    "volume-1": lambda: viz.volume(sweeps()[:1]),
    "time": lambda: viz.forward_time(timed()),
    "step": step_figure,
    **COST_FIGURES,
}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_or_too_small_to_read(name: str) -> None:
    figure = FIGURES[name]()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = figure.bbox
    assert figure.get_figwidth() == style.WIDTH_IN
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if not text.get_visible() or not text.get_text().strip():
            continue
        box = text.get_window_extent(canvas.get_renderer())
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
        # a tick just beyond the axis' limits has a label that is never drawn
        assert inside or text in _undrawn_ticks(figure), f"{text.get_text()!r} is cut off"
        assert float(text.get_fontsize()) >= 9, f"{text.get_text()!r} is {text.get_fontsize()} pt"


def _undrawn_ticks(figure: Figure) -> list[Text]:
    labels: list[Text] = []
    for ax in figure.axes:
        for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            low, high = min(low, high), max(low, high)
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if not low <= tick.get_loc() <= high:
                    labels += [tick.label1, tick.label2]
    return labels


@pytest.mark.parametrize("name", FIGURES)
def test_is_small_and_says_what_it_shows(name: str) -> None:
    picture = viz.show(FIGURES[name](), alt='Bars "A" < B.')
    assert len(picture.png) < display.MAX_BYTES
    assert picture._repr_html_().startswith('<img alt="Bars &quot;A&quot; &lt; B." width="700" src="data:image/png;')
    assert repr(picture) == 'Figure: Bars "A" < B.'


def test_same_numbers_same_picture() -> None:
    assert viz.show(viz.mlp_split(3), "x").png == viz.show(viz.mlp_split(3), "x").png


def test_show_wants_words_and_refuses_what_is_too_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="alt is empty"):
        viz.show(viz.mlp_split(2), "  ")
    monkeypatch.setattr(display, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="100 is the limit"):
        viz.show(viz.mlp_split(2), "x")


def test_heads_drawn_are_the_heads_held() -> None:
    figure = viz.heads_on_ranks(9, 3, 4)
    held = [_filled(ax) for ax in figure.axes]
    assert held[0] == {(0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6), (3, 7), (3, 8)}
    assert held[1] == {(0, 0), (1, 1), (2, 1), (2, 2), (3, 2)}
    assert figure.axes[1].get_title("left") == "3 KV heads, 5 held"


def _filled(ax: object) -> set[tuple[int, int]]:
    """(rank, head) of every coloured cell."""
    cells = [patch for patch in getattr(ax, "patches", []) if isinstance(patch, Rectangle) and patch.get_width() < 1]
    return {(int(cell.get_y()), int(cell.get_x())) for cell in cells}


def test_lines_are_the_formula_and_points_are_the_measurement() -> None:
    ax = viz.volume(sweeps()).axes[0]
    line, points = ax.get_lines()
    assert np.array_equal(line.get_xydata(), sweeps()[0].formula)
    assert np.array_equal(points.get_xydata(), sweeps()[0].wire)
    assert (line.get_marker(), points.get_linestyle()) == ("", "None")
    assert to_rgb(line.get_color()) != to_rgb(points.get_color())
    fullest = np.asarray(viz.kv_cache(64, 8, 1.0, 16).axes[0].get_lines()[1].get_ydata())
    assert [fullest[t - 1] for t in (1, 2, 4, 8, 16)] == [8, 4, 2, 1, 1]


def test_a_round_lasts_as_long_as_its_slowest_rank() -> None:
    bounds = Times(math_s=0.2, hbm_s=0.1, comms_s=0.3)
    timed = viz.timed(2, bounds, [[0.1, 0.9, 0.4], [0.6, 0.2, 0.5]])
    assert (timed.lower_s, timed.upper_s, timed.median_s) == (0.3, 0.5, 0.6)
    assert (timed.p10_s, timed.p90_s) == pytest.approx((0.52, 0.84))
    with pytest.raises(ValueError):
        viz.timed(2, bounds, [[0.1], [0.2, 0.3]])
    with pytest.raises(ValueError, match="no samples"):
        viz.timed(2, bounds, [])


def test_source_is_the_code_that_runs() -> None:
    shown = viz.source(style.blank, viz.Picture._repr_html_)
    assert repr(shown).startswith("# shardlab/viz/style.py: blank\ndef blank(height_in: float) -> Figure:")
    assert "\n\n# shardlab/viz/display.py: Picture._repr_html_\ndef _repr_html_(self)" in repr(shown)
    assert shown._repr_markdown_() == f"```python\n{shown!r}\n```"
    with pytest.raises(ValueError, match="at least one function"):
        viz.source()


def test_the_shortest_step_is_marked() -> None:
    marked = [
        [text.get_text().split("\n")[1] for text in ax.texts if text.get_text().startswith("best")]
        for ax in step_figure().axes
    ]
    assert marked == [["2.60"], ["4.60"], ["7.00"]]


def test_traffic_never_calls_a_trace_nothing() -> None:
    texts = [text.get_text() for text in viz.traffic([[0, 300, 0], [6_291_456, 0, 0], [0, 0, 0]]).axes[0].texts]
    assert texts == ["-", "~0", "0", "6.29", "-", "0", "0", "0", "-"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: viz.mlp_split(9), r"tp=9: the drawing shows 1\.\.8"),
        (lambda: viz.heads_on_ranks(9, 3, 10), r"tp=10 cannot split num_heads=9: degrees that work: 1\.\.9"),
        (lambda: viz.kv_cache(9, 3, 1.0, 0), r"max_tp=0"),
        (lambda: viz.traffic([[1, 2]]), r"shape \(1, 2\)"),
        (lambda: viz.traffic(np.zeros((2, 2)), np.zeros((3, 3))), "same ranks"),
        (lambda: viz.volume([]), "0 sweeps"),
        (lambda: viz.forward_time({}), "one to three phases"),
        (lambda: viz.decode_step([1], [1.0, 2.0], {"a": [1.0]}), "read_s has 2 values for 1 degrees"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call: Callable[[], Figure], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_needs_no_torch_and_leaves_no_state() -> None:
    program = (
        "import sys, matplotlib; before = dict(matplotlib.rcParams)\n"
        "from shardlab import viz; viz.show(viz.mlp_split(2), 'x')\n"
        "assert dict(matplotlib.rcParams) == before\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'triton')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert subprocess.run([sys.executable, "-c", "import torch\n" + program], check=False).returncode == 1
