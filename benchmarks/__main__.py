"""`python -m benchmarks`: every bench in turn, then one table. --markdown prints it for a README."""

from __future__ import annotations

import datetime
import importlib
import platform
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import metadata
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import Row
from benchmarks.goals import name_of
from shardlab.measure.machine import num_cores

MODULES = {
    "launch": "starting ranks",
    "sched": "the scheduler's class",
    "collectives": "our collectives against the backend's",
    "carried": "a model on the chosen collectives",
    "many_ranks": "many ranks on few cores",
    "wire": "bytes on the wire",
    "speedup": "two ranks against one",
    "overhead": "our layers against plain torch",
    "planner": "the planner against the clock",
    "faults": "time to an error, failures in many launches",
    "cost_model": "the cost model on this machine",
    "cost_published": "the cost model on published all-reduces",
    "decode": "decode on our kernels, on a GPU",
}


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Only this one; repeatable: {', '.join(MODULES)}.")] = None,
    markdown: Annotated[bool, typer.Option(help="Print the table as markdown as well.")] = False,
) -> None:
    """Measure the project's claims on this machine, and print one table."""
    unknown = [name for name in only or [] if name not in MODULES]
    if unknown:
        typer.echo(f"error: --only {unknown[0]}; allowed: {', '.join(MODULES)}", err=True)
        raise typer.Exit(2)
    rows, broken = measure(only or list(MODULES))
    title = f"Measured on {machine()}"
    Console(width=None if sys.stdout.isatty() else 140).print(table(rows, title))
    if markdown:
        typer.echo("\n" + as_markdown(rows, title))
    if broken:  # a goal that this machine misses is a result; a bench that could not run is an error
        raise typer.Exit(1)


def measure(names: Sequence[str]) -> tuple[list[Row], int]:
    """The rows of each bench, in order, and how many benches broke: one that does still leaves a row."""
    rows: list[Row] = []
    broken = 0
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # Ranks say on stdout what they run on: beside the progress bar, not in the table.
    with Progress(*columns, console=Console(stderr=True)) as progress, redirect_stdout(sys.stderr):
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=MODULES[name])
            try:
                rows += importlib.import_module(f"benchmarks.{name}").rows()
            except Exception as error:  # the other benches still have something to say
                broken += 1
                rows.append(Row("", MODULES[name], f"{type(error).__name__}: {error}".partition("\n")[0], "", False))
            progress.advance(task)
        progress.update(task, description="done")
    return rows, broken


def table(rows: Sequence[Row], title: str) -> Table:
    """The rows for a terminal."""
    drawn = Table(title=title, title_justify="left")
    for name in ("goal", "what", "measured", "wanted", ""):
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*_cells(row))
    return drawn


def as_markdown(rows: Sequence[Row], title: str) -> str:
    """The rows for a README."""
    lines = ["| goal | what | measured | wanted | |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in rows]
    return "\n".join([f"{title}.", "", *lines])


def machine() -> str:
    """Where the numbers come from: they hold for nothing else."""
    today = datetime.datetime.now(datetime.UTC).date()
    versions = f"Python {platform.python_version()}, torch {metadata.version('torch')}"
    return f"{num_cores()} cores, {platform.system()} {platform.machine()}, {versions}, {today}"


def _cells(row: Row) -> tuple[str, ...]:
    return name_of(row.goal), row.what, row.measured, row.wanted, {True: "met", False: "NOT MET", None: ""}[row.met]


if __name__ == "__main__":
    typer.run(main)
