"""The picture of each made-up machine: whole, legible, nothing over anything else, and true to the graph."""

from __future__ import annotations

import networkx as nx
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Arc, FancyBboxPatch
from matplotlib.text import Text

from shardlab import topology, viz
from shardlab.viz import display, style
from shardlab.viz.machine.places import NVLINK, PCIE, PORT
from shardlab.viz.sheet import fit, width_in
from tests.topology.machines import MACHINES, machine


def graph_of(name: str) -> nx.Graph:
    return topology.read() if name == "this" else machine(name)


def drawn(name: str) -> Figure:
    return viz.topology(graph_of(name))


def words(figure: Figure) -> list[Text]:
    return [text for text in figure.axes[0].texts if text.get_text().strip()]


def lines_in(figure: Figure, color: str) -> list[tuple[float, float]]:
    """(from y, to y) of the lines of a colour that stand upright: links, not the legend's samples."""
    ends = [line.get_ydata() for line in figure.axes[0].lines if line.get_color() == color]
    return [(float(ys[0]), float(ys[-1])) for ys in ends if ys[0] != ys[-1]]  # type: ignore[index]


@pytest.mark.parametrize("name", ["this", *MACHINES])
def test_all_words_can_be_read(name: str) -> None:
    figure = drawn(name)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    assert figure.get_figwidth() == style.WIDTH_IN
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in words(figure)]
    assert boxes
    frames = [patch.get_window_extent() for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    for at, (text, extent) in enumerate(boxes):
        assert extent.x0 >= 0 and extent.x1 <= figure.bbox.x1, f"{text!r} is cut off"
        assert extent.y0 >= 0 and extent.y1 <= figure.bbox.y1, f"{text!r} is cut off"
        assert float(words(figure)[at].get_fontsize()) >= 9
        for other, second in boxes[:at]:
            assert not extent.overlaps(second), f"{text!r} and {other!r} overlap"
        for frame in frames:  # a word is in a box or beside it, never across its edge
            middle = (extent.y0 + extent.y1) / 2
            if frame.y0 < middle < frame.y1 and extent.x0 < frame.x1 and frame.x0 < extent.x1:
                assert frame.x0 <= extent.x0 and extent.x1 <= frame.x1, f"{text!r} sticks out of its box"


@pytest.mark.parametrize("name", ["this", *MACHINES])
def test_boxes_stand_apart_or_inside_one_another(name: str) -> None:
    figure = drawn(name)
    frames = [patch.get_window_extent() for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    for at, frame in enumerate(frames):
        assert 0 <= frame.x0 and frame.x1 <= figure.bbox.x1 and 0 <= frame.y0 and frame.y1 <= figure.bbox.y1
        for other in frames[:at]:
            inside = other.x0 <= frame.x0 and frame.x1 <= other.x1 and other.y0 <= frame.y0 and frame.y1 <= other.y1
            assert inside or not frame.overlaps(other)


@pytest.mark.parametrize("name", ["this", *MACHINES])
def test_is_small(name: str) -> None:
    graph = graph_of(name)
    picture = viz.show(viz.topology(graph), alt="; ".join(topology.describe(graph)))
    assert len(picture.png) < display.MAX_BYTES


def test_every_gpu_and_its_links_are_drawn() -> None:
    figure = drawn("dgx-h100")
    shown = [text.get_text() for text in words(figure)]
    assert [text for text in shown if text.startswith("GPU")] == [f"GPU {i}" for i in range(8)]
    assert shown.count("switch") + shown.count("PCIe switch") == 8
    assert shown.count("50 GB/s") == 8 and [text for text in shown if text.startswith("mlx5_")] == [
        f"mlx5_{i}" for i in range(8)
    ]
    assert "4 NVSwitches, one plane" in shown
    assert len(lines_in(figure, NVLINK)) == 8
    assert len(lines_in(figure, PCIE)) == 8 + 8 + 8 + 1  # GPUs, ports, switches, eno1
    assert {"NVLink 4.0, 18 links: 450 GB/s", "PCIe 5.0 x16: 63 GB/s", "PCIe 2.0 x1: 500 MB/s"} <= set(shown)
    assert "56 cores, 112 threads" in shown and "56 x L2 2 MiB" in shown


def test_wider_is_faster_and_dashed_is_not_known() -> None:
    figure = drawn("dgx-h100")
    widths = {
        color: max(ln.get_linewidth() for ln in figure.axes[0].lines if ln.get_color() == color)
        for color in (NVLINK, PCIE)
    }
    assert widths[NVLINK] > widths[PCIE]
    assert {line.get_linestyle() for line in figure.axes[0].lines if line.get_color() == PCIE} == {"-"}
    figure = drawn("laptop")
    assert {line.get_linestyle() for line in figure.axes[0].lines if line.get_color() == PCIE} == {"--"}


def test_direct_links_are_arcs_one_a_pair() -> None:
    figure = drawn("mesh-a100")
    arcs = [patch for patch in figure.axes[0].patches if isinstance(patch, Arc)]
    assert len(arcs) == 6 and {arc.get_linestyle() for arc in arcs} == {"-"}
    ends = sorted(x for arc in arcs for x in (arc.center[0] - arc.width / 2, arc.center[0] + arc.width / 2))
    assert min(b - a for a, b in zip(ends, ends[1:], strict=False)) > 0.05  # no two ends in one place
    outlined = drawn("crowd")
    edges = [patch.get_linewidth() for patch in outlined.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    assert sum(width > 2 for width in edges) == 8  # 16 GPUs in 8 boxes, each a joined pair


def test_a_port_that_is_down_is_hollow() -> None:
    figure = drawn("workstation")
    fills = [patch.get_facecolor() for patch in figure.axes[0].patches if patch.get_edgecolor() == _rgba(PORT)]
    assert fills == [(1.0, 1.0, 1.0, 1.0)]
    assert "down" in [text.get_text() for text in words(figure)]


def _rgba(color: str) -> tuple[float, ...]:
    from matplotlib.colors import to_rgba

    return to_rgba(color)


def test_words_that_do_not_fit_are_shortened() -> None:
    assert fit(["loopback", "lo"], 1.0) == "loopback"
    assert fit(["loopback", "lo"], 0.2) == "lo"
    short = fit(["enp134s0f0np0"], 0.6)
    assert short.endswith("…") and width_in(short) <= 0.6
    assert fit(["abc"], 0.01) == ""
