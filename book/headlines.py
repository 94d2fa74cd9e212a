"""The table that ends a build: what each lab predicted, and what this machine measured."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
from rich.table import Table

from shardlab.compare.tables import HEADLINE_TYPE, quantity_text, residual_text, residuals


def collect(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """-> the headline payloads of the notebooks' outputs, in order: lab, what, predicted, measured, unit."""
    return [
        output.data[HEADLINE_TYPE]
        for path in paths
        for cell in nbformat.read(path, 4).cells
        for output in cell.get("outputs", ())
        if HEADLINE_TYPE in output.get("data", {})
    ]


def table(headlines: list[dict[str, Any]]) -> Table:
    """One row a headline; the lab's name only where it changes."""
    rendered = Table(title="Predicted and measured", title_justify="left", title_style="bold")
    for column in ("lab", "what"):
        rendered.add_column(column)
    for column in ("predicted", "measured", "residual"):
        rendered.add_column(column, justify="right", no_wrap=True)
    before = None
    for line in headlines:
        (residual,) = residuals([line["predicted"]], [line["measured"]])
        rendered.add_row(
            line["lab"] if line["lab"] != before else "",
            line["what"],
            quantity_text(line["predicted"], line["unit"]),
            quantity_text(line["measured"], line["unit"]),
            residual_text(residual),
        )
        before = line["lab"]
    return rendered
