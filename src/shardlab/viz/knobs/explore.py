"""Knobs that answer with a kernel and without one.

Every combination of the knobs is drawn beforehand and kept in a tree of Stacks, one level a knob. Each
slider is linked to its level in the browser (jslink), so a page of the book answers offline, exactly as
a notebook does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import ipywidgets

from shardlab.viz.bars import STYLE

MAX_BYTES = 300_000  # of all frames together: what a page of the book may weigh


def explore(frame: Callable[..., Any], **choices: Sequence[Any]) -> ipywidgets.VBox:
    """One slider for each of `choices`, and below them frame(**chosen), drawn beforehand for every combination.

    `frame` is pure, and returns HTML (`bars`) or something with _repr_html_ (`show(figure, alt)`).
    Raises ValueError for no choices, an empty one, or frames of more than 300 kB in all.
    """
    if not choices or not all(len(values) for values in choices.values()):
        raise ValueError("explore needs at least one knob, and at least one choice for each")
    for name, values in choices.items():
        if len({str(value) for value in values}) < len(values):
            raise ValueError(f"{name}: two of its choices read the same: {', '.join(map(str, values))}")
    sliders = {
        name: ipywidgets.SelectionSlider(
            options=[(str(value), value) for value in values],
            description=name,
            continuous_update=True,
        )
        for name, values in choices.items()
    }
    shared = {"layout": ipywidgets.Layout(), "style": ipywidgets.widgets.widget_string.HTMLStyle()}
    budget = [MAX_BYTES, math.prod(len(values) for values in choices.values())]
    tree = _level(frame, choices, {}, sliders, shared, budget)
    whole = ipywidgets.VBox([ipywidgets.HTML(STYLE, **shared), *sliders.values(), tree])
    whole.add_class("slknobs")
    return whole


def frames_of(widget: ipywidgets.VBox) -> dict[tuple[str, ...], str]:
    """(label of each slider, in order) -> the HTML that the widget shows for it. For tests, and for the
    curious."""
    sliders = [child for child in widget.children if isinstance(child, ipywidgets.SelectionSlider)]
    labels = [tuple(label for label, _ in cast(Any, slider.options)) for slider in sliders]
    found: dict[tuple[str, ...], str] = {}

    def walk(node: Any, chosen: tuple[str, ...]) -> None:
        if isinstance(node, ipywidgets.Stack):
            for label, child in zip(labels[len(chosen)], node.children, strict=True):
                walk(child, (*chosen, label))
        else:
            found[chosen] = node.value

    walk(widget.children[-1], ())
    return found


def _level(
    frame: Callable[..., Any],
    choices: Mapping[str, Sequence[Any]],
    chosen: dict[str, Any],
    sliders: Mapping[str, ipywidgets.SelectionSlider],
    shared: dict[str, Any],
    budget: list[int],
) -> ipywidgets.Widget:
    """The Stack of the next knob, or the frame where every knob has its value."""
    rest = [name for name in choices if name not in chosen]
    if not rest:
        value = _html(frame(**chosen))
        budget[0] -= len(value.encode())
        if budget[0] < 0:
            raise ValueError(f"{budget[1]} frames take more than {MAX_BYTES} bytes: fewer choices, or `bars`")
        return ipywidgets.HTML(value, **shared)  # one Layout for all: each would add 1.5 kB to the page
    name = rest[0]
    children = [_level(frame, choices, {**chosen, name: value}, sliders, shared, budget) for value in choices[name]]
    stack = ipywidgets.Stack(children, selected_index=0, layout=shared["layout"])
    ipywidgets.jslink((sliders[name], "index"), (stack, "selected_index"))
    return stack


def _html(drawn: Any) -> str:
    if isinstance(drawn, str):
        return drawn
    render = getattr(drawn, "_repr_html_", None)
    html = render() if callable(render) else None
    if not isinstance(html, str):
        raise ValueError(f"frame returned a {type(drawn).__name__}: HTML is needed, or show(figure, alt=...)")
    return html
