"""Bars as a few hundred bytes of HTML: the frames of a widget, of which a page holds dozens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from shardlab.viz.style import LINE

# Once a widget, not once a frame. White card, dark ink: the same on a light page and on a dark one.
_RULES = {
    ".slknobs": "background:#fff;border-radius:4px;padding:6px;max-width:46em",
    ".slknobs .widget-label,.slknobs .widget-readout": "color:#222!important",
    ".slbars": "background:#fff;color:#222;padding:6px 10px;font-size:14px;line-height:1.35",
    ".slbars p": "margin:0 0 .4em;color:#222",
    ".slbars div": "display:grid;grid-template-columns:minmax(8em,15em) 1fr 6em;gap:8px;"
    "align-items:center;margin:2px 0",
    ".slbars i": f"display:block;height:1em;min-width:2px;background:{LINE}",
    ".slbars b": "text-align:right;font-variant-numeric:tabular-nums",
}
STYLE = "<style>" + "".join(f"{where}{{{rules}}}" for where, rules in _RULES.items()) + "</style>"


@dataclass(frozen=True)
class Bar:
    """One bar: `value` on a logarithmic scale from `low` to `high`, and the words beside it."""

    label: str
    value: float
    text: str
    low: float
    high: float

    @property
    def percent(self) -> float:
        """How much of the width it fills, 0..100. Values outside low..high fill none or all."""
        if not 0 < self.low < self.high:
            raise ValueError(f"low={self.low}, high={self.high}: 0 < low < high is needed for a logarithmic bar")
        if self.value <= self.low:
            return 0.0
        share = math.log(self.value / self.low) / math.log(self.high / self.low)
        return round(100 * min(1.0, share), 1)


def bars(rows: Sequence[Bar], caption: str) -> str:
    """HTML of the bars under their caption. A screen reader gets the labels and the numbers as they stand."""
    lines = [f"<p>{escape(caption)}</p>"]
    for row in rows:
        bar = f'<i style="width:{row.percent:g}%"></i>'
        lines.append(f"<div><span>{escape(row.label)}</span>{bar}<b>{escape(row.text)}</b></div>")
    return f'<section class="slbars">{"".join(lines)}</section>'
