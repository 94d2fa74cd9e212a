"""The figures of the page on kernels: whole, readable, small, and true to their numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from shardlab import viz
from shardlab.theory import kernels
from shardlab.viz import display, style


def states() -> list[viz.Busy]:
    return [
        viz.Busy("no split: 8 blocks", range(8), "8 of 132 SMs work"),
        viz.Busy("16 splits: 128 blocks", [block // 16 for block in range(128)], "128 of 132 SMs work"),
    ]


def marks() -> list[viz.Reach]:
    predicted = [viz.Reach("matmul, 1 row", 1.0, 3.35e12), viz.Reach("matmul", 2294.0, 989e12, words=(-1, 1))]
    measured = [
        viz.Reach("a", 1.0, 2.9e12, "products", measured=True),
        viz.Reach("b", 4.0, 11e12, "attention", measured=True),
    ]
    return predicted + measured


def roof(kernels: list[viz.Reach], reached: tuple[float, float] | None = None) -> Figure:
    return viz.roofline(
        kernels, hbm_Bps=3.35e12, bf16_flops=989.4e12, roof="data sheet", reached=reached, reached_roof="reached"
    )


def lines() -> list[viz.Splits]:
    return [viz.Splits("batch 1", [(1, 16.5), (2, 8.25), (16, 1.03)]), viz.Splits("batch 16", [(1, 1.03), (64, 1.0)])]


def drawn_passes() -> Figure:
    return viz.passes([viz.Passes(name, steps, kernels.FUSED[name]) for name, steps in kernels.PASSES.items()])


FIGURES: dict[str, Callable[[], Figure]] = {
    "sms": lambda: viz.busy_sms(states(), 132),
    "sms-one-panel": lambda: viz.busy_sms(states()[:1], 108),
    "splits": lambda: viz.split_times(lines()),
    "tiles-6": lambda: viz.attention_tiles(6, 1e9, 1e9),
    "tiles-12": lambda: viz.attention_tiles(12, 17.2e9, 169e6),
    "passes": drawn_passes,
    "int4": viz.q4_1_block,
    "experts": lambda: viz.expert_rows([(0, 3), (1, 3), (0, 1), (0, 3), (1, 3)], 4),
    "experts-one": lambda: viz.expert_rows([(0,)], 1),
    **{f"shots-{ranks}": (lambda ranks=ranks: viz.shots(ranks)) for ranks in (2, 4, 8)},
    "roof-predicted": lambda: roof(marks()[:2]),
    "roof-measured": lambda: roof(marks()[2:], (3.0e12, 798e12)),
    "roof-both": lambda: roof(marks(), (3.0e12, 798e12)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_or_too_small_to_read(name: str) -> None:
    figure = FIGURES[name]()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    assert figure.get_figwidth() == style.WIDTH_IN
    undrawn = _undrawn_ticks(figure)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if not text.get_visible() or not text.get_text().strip() or text in undrawn:
            continue
        box = text.get_window_extent(canvas.get_renderer())
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside, f"{text.get_text()!r} is cut off"
        assert float(text.get_fontsize()) >= 9, f"{text.get_text()!r} is {text.get_fontsize()} pt"


def _undrawn_ticks(figure: Figure) -> list[Text]:
    """Labels of ticks beyond the limits of their axis: never drawn."""
    labels: list[Text] = []
    for ax in figure.axes:
        for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            low, high = min(low, high), max(low, high)
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if not low <= tick.get_loc() <= high:
                    labels += [tick.label1, tick.label2]
    return labels


@pytest.mark.parametrize("name", FIGURES)
def test_is_small(name: str) -> None:
    assert len(viz.show(FIGURES[name](), "A picture.").png) < display.MAX_BYTES


def cells(ax: Axes) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def test_as_many_sms_are_coloured_as_there_are_blocks() -> None:
    for ax, state in zip(viz.busy_sms(states(), 132).axes, states(), strict=True):
        assert len(cells(ax)) == 132
        numbers = [text.get_text() for text in ax.texts if text.get_text().isdigit()]
        assert numbers == [str(head) for head in state.blocks]


def test_tiles_computed_masked_and_skipped() -> None:
    ax = viz.attention_tiles(8, 2e9, 1e9).axes[0]
    colors = [to_hex(cell.get_facecolor()) for cell in cells(ax)[:64]]
    assert [colors.count(color) for color in (style.PETROFF[0], style.PETROFF[1], "#ffffff")] == [28, 8, 28]


def test_as_many_squares_as_passes() -> None:
    (ax,) = drawn_passes().axes
    whole = max(cell.get_width() for cell in cells(ax))
    halves = sum(cell.get_width() < 0.6 * whole for cell in cells(ax))
    total = sum(kernels.written_out_passes(name) + sum(kernels.FUSED[name]) for name in kernels.PASSES)
    assert len(cells(ax)) == total + halves / 2  # a square and a half take two patches, as do two halves
    assert [text.get_text() for text in ax.texts if text.get_text().isdigit()] == ["10", "4", "10", "2", "5", "3"]


def test_a_byte_holds_weight_j_and_j_plus_16() -> None:
    texts = [text.get_text() for text in viz.q4_1_block().axes[0].texts]
    numbers = [int(text) for text in texts if text.isdigit()]
    assert numbers == [number for byte in range(16) for number in (byte + 16, byte)]


def test_copies_are_sorted_by_expert_and_keep_the_order_of_tokens() -> None:
    texts = [text.get_text() for text in viz.expert_rows([(0, 3), (3, 1), (0, 1)], 4).axes[0].texts]
    assert [text for text in texts if text.isdigit()] == ["0", "2", "1", "2", "0", "1"]
    assert "expert 2: not read" in texts


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_what_a_rank_reads_in_one_shot_and_in_two(ranks: int) -> None:
    one, first, second = viz.shots(ranks).axes

    def read(ax: Axes) -> int:
        own = {style.PETROFF[9], "#ffffff"}
        return sum(to_hex(cell.get_facecolor()) not in own for cell in cells(ax))

    assert (read(one), read(first), read(second)) == ((ranks - 1) * ranks, ranks - 1, ranks - 1)


def test_predicted_marks_are_hollow_and_measured_ones_are_filled() -> None:
    ax = roof(marks()).axes[0]
    found = [line for line in ax.get_lines() if line.get_linestyle() == "None"]
    hollow = [line for line in found if to_hex(cast(str, line.get_markerfacecolor())) == "#ffffff"]
    assert [_point(line) for line in hollow] == [(1.0, 3.35e12), (2294.0, 989e12)]
    assert [_point(line) for line in found if line not in hollow] == [(1.0, 2.9e12), (4.0, 11e12)]
    assert len({to_hex(line.get_color()) for line in found if line not in hollow}) == 2


def _point(line: Line2D) -> tuple[float, float]:
    ((x, y),) = np.asarray(line.get_xydata())
    return float(x), float(y)


def test_the_roof_bends_at_the_ridge() -> None:
    line = roof(marks()).axes[0].get_lines()[0]
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert x[1] == pytest.approx(989.4e12 / 3.35e12)
    assert (y[0], y[1], y[2]) == (pytest.approx(x[0] * 3.35e12), 989.4e12, 989.4e12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: viz.busy_sms([viz.Busy("x", range(133))], 132), "133 blocks on 132 SMs"),
        (lambda: viz.busy_sms([], 132), "0 states"),
        (lambda: viz.split_times([]), "one to 3 lines"),
        (lambda: viz.attention_tiles(5, 1.0, 1.0), "tiles=5"),
        (lambda: viz.passes([]), "at least one kernel"),
        (lambda: viz.expert_rows([(4,)], 4), r"experts are 0\.\.3"),
        (lambda: viz.expert_rows([(0,)], 7), "7 experts"),
        (lambda: viz.shots(9), "ranks=9"),
        (lambda: roof([]), "at least one kernel"),
        (lambda: roof([viz.Reach("x", 0.0, 1.0)]), "above 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call: Callable[[], Figure], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
