"""Widgets: every frame is what the pure function returns, each level follows its slider, and all is small."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, cast

import ipywidgets
import pytest
from ipywidgets.embed import embed_data

from shardlab import viz
from shardlab.theory import collectives
from shardlab.viz.bars import Bar
from shardlab.viz.knobs.explore import frames_of

KNOBS: dict[str, tuple[Any, ...]] = {
    "T": (2, 3, 4, 8),
    "D": (576, 4096, 8192),
    "batch": (1, 32, 512),
    "dtype": ("fp32", "bf16"),
}


@pytest.fixture(autouse=True)
def only_this_tests_widgets() -> None:
    ipywidgets.Widget.close_all()


def saved(widget: ipywidgets.VBox, drop_defaults: bool = True) -> dict[str, Any]:
    """The state that a notebook, and so a page of the book, keeps."""
    return cast(dict[str, Any], embed_data([widget], drop_defaults=drop_defaults)["manager_state"])


def test_each_frame_is_the_pure_functions() -> None:
    frames = frames_of(viz.explore(viz.all_reduce_knobs, **KNOBS))
    assert len(frames) == 72
    for values in itertools.product(*KNOBS.values()):
        chosen = dict(zip(KNOBS, values, strict=True))
        assert frames[tuple(map(str, values))] == viz.all_reduce_knobs(**chosen)


def test_every_level_is_linked_to_its_own_slider() -> None:
    widget = viz.explore(lambda a, b: f"{a}{b}", a=(1, 2, 3), b=("x", "y"))
    state = saved(widget)["state"].values()
    links = [entry["state"] for entry in state if entry["model_name"] == "LinkModel"]
    stacks = [entry["state"] for entry in state if entry["model_name"] == "StackModel"]
    assert len(links) == len(stacks) == 1 + 3
    assert {tuple(link["source"])[1] for link in links} == {"index"}
    assert {tuple(link["target"])[1] for link in links} == {"selected_index"}
    targets = {link["target"][0] for link in links}
    assert len(targets) == 4  # no level is forgotten
    assert len({link["source"][0] for link in links}) == 2
    assert all(stack["selected_index"] == 0 for stack in stacks)


def test_a_page_carries_less_than_300_kb() -> None:
    widget = viz.explore(viz.all_reduce_knobs, **KNOBS)
    state = json.dumps(saved(widget, drop_defaults=False))
    assert len(state) < 300_000


def test_a_picture_is_a_frame_too() -> None:
    widget = viz.explore(lambda T: viz.show(viz.mlp_split(T), alt=f"MLP over {T} ranks"), T=(1, 2, 3))
    assert 'alt="MLP over 2 ranks"' in frames_of(widget)["2",]
    assert isinstance(widget.children[-1], ipywidgets.Stack)


def test_the_numbers_in_a_frame_are_the_theorys() -> None:
    html = viz.all_reduce_knobs(T=8, D=8192, batch=1, dtype="bf16")
    assert collectives.wire_bytes("all_reduce", num_bytes=16384, world_size=8) == 28672
    numbers = re.findall(r"<b>(.*?)</b>", html)
    assert numbers == ["28.7 kB", "4.62 MB", "63.7 ns", "8.46 µs", "1.36 ms"]
    assert "16.4 kB, ring of 8 ranks, 80 layers, 450 GB/s each way" in html
    with pytest.raises(ValueError, match="dtype='fp64'; allowed: fp32, bf16, fp8"):
        viz.all_reduce_knobs(T=8, D=8192, batch=1, dtype="fp64")


def test_bars_are_logarithmic_and_escaped() -> None:
    widths = [Bar("a", value, "", 1, 1e4).percent for value in (0, 1, 100, 1e4, 1e9)]
    assert widths == [0, 0, 50, 100, 100]
    assert "&lt;b&gt;" in viz.bars([Bar("<b>", 1, "1", 0.1, 10)], "caption")
    with pytest.raises(ValueError, match="0 < low < high"):
        _ = Bar("a", 1, "", 0, 1).percent


@pytest.mark.parametrize(
    ("frame", "choices", "words"),
    [
        (str, {}, "at least one knob"),
        (lambda a: "x", {"a": ()}, "at least one choice"),
        (lambda a: "x", {"a": (1, "1")}, "read the same"),
        (lambda a: viz.mlp_split(a), {"a": (1,)}, "frame returned a Figure"),
        (lambda a: "x" * 200_000, {"a": (1, 2)}, "2 frames take more than 300000 bytes"),
    ],
)
def test_what_cannot_be_explored_is_refused(frame: Any, choices: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        viz.explore(frame, **choices)
