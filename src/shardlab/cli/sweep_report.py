"""What `shardlab sweep` shows: a bar while it measures, a table when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shardlab.theory.collectives import ALGORITHMS
from shardlab.theory.units import bandwidth_text, bytes_text, seconds_text

if TYPE_CHECKING:
    from rich.table import Table

    from shardlab.measure.point import Point


_COUNTED = {"on the wire": "wire", "in shared memory": "memory", "recorded": "formula"}


def tables(points: Sequence[Point]) -> Iterator[Table]:
    """The points for a terminal: a table for each number of ranks and op."""
    from rich import box
    from rich.table import Table

    groups: dict[tuple[int, str], list[Point]] = {}
    for point in sorted(points, key=lambda one: (one.world_size, list(ALGORITHMS).index(one.op))):
        groups.setdefault((point.world_size, point.op), []).append(point)
    for (world_size, op), group in groups.items():
        drawn = Table(
            title=f"{op} on {world_size} ranks", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for name in ("algorithm", "over"):
            drawn.add_column(name, overflow="fold")
        for name in ("S", "median", "p10 - p90", "algbw", "busbw", "steps", "bytes sent", "by formula", "counted"):
            drawn.add_column(name, justify="right", overflow="fold")
        for number, one in enumerate(group):
            if number and one.implementation != group[number - 1].implementation:
                drawn.add_section()
            drawn.add_row(*_cells(one))
        yield drawn


def _cells(one: Point) -> tuple[str, ...]:
    return (
        one.algorithm,
        one.transport,
        bytes_text(one.num_bytes),
        seconds_text(one.median_s),
        f"{seconds_text(one.p10_s)} - {seconds_text(one.p90_s)}",
        bandwidth_text(one.algbw_Bps),
        bandwidth_text(one.busbw_Bps),
        str(one.steps),
        f"{one.sent_bytes:,}",
        f"{one.formula_bytes:,.0f}",
        _COUNTED[one.counted],
    )


@contextmanager
def progress() -> Iterator[Callable[[float, float, str], None]]:
    """A bar over seconds of predicted work, so that its estimate of the time left knows that large sizes take long."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left:"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("starting", total=None)

        def tell(done_s: float, all_s: float, what: str) -> None:
            bar.update(task, completed=done_s, total=all_s, description=what)

        yield tell
