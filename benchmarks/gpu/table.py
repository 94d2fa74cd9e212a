"""The goals G1-G16 from the rows of a kernels_<gpu>.csv: met or not, and how far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from shardlab_kernels.bench import record, report, run
from shardlab_kernels.bench.cases import CASES
from shardlab_kernels.bench.goal import Goal
from shardlab_kernels.bench.record import Row

NUMBERS = {field.name for field in fields(Row) if field.type in ("float", "int")}


def goals(extra: dict[tuple[str, str], Goal]) -> dict[tuple[str, str], Goal | None]:
    """(kernel, case) -> its goal, in the order of the table. `extra`: those of whole models."""
    return {(case.kernel, case.name): case.goal for case in CASES} | extra


def lines(path: Path, wanted: dict[tuple[str, str], Goal | None]) -> list[tuple[str, ...]]:
    """A line of the table for each case in the file; a goal is judged on the cards that it is for."""
    found = list(rows(record.read(path)))
    result = []
    for (kernel, case), goal in wanted.items():
        own = [row for row in found if (row.kernel, row.case) == (kernel, case)]
        if own:
            result.append(report.line(kernel, case, own, goal if run.is_judged(own[0].device) else None))
    return result


def verdicts(table: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """'G7' -> 'aim', 'met', 'not' or '-': the worst of its cases."""
    order = ("aim", "met", "-", "not")
    worst: dict[str, str] = {}
    for name, _, state in (line[-1].partition(" ") for line in table if line[-1].startswith("G")):
        worst[name] = max(worst.get(name, "aim"), state, key=order.index)
    return dict(sorted(worst.items(), key=lambda item: int(item[0][1:])))


def rows(read: Iterable[dict[str, str]]) -> Iterable[Row]:
    for line in read:
        values: dict[str, Any] = {name: float(text) if name in NUMBERS else text for name, text in line.items()}
        yield Row(**values)
