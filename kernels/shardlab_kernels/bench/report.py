"""The short table that is printed last, and what is said below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shardlab_kernels.bench.check import OURS
from shardlab_kernels.bench.goal import Goal, Score, verdict
from shardlab_kernels.bench.record import Row

HEADER = ("kernel", "case", "ours", "best rival", "times", "% copy", "% GEMM", "goal")


@dataclass
class Outcome:
    """What a run found, case by case."""

    rows: list[Row] = field(default_factory=list)
    lines: list[tuple[str, ...]] = field(default_factory=list)  # of the table
    wrong: list[str] = field(default_factory=list)
    absent: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # (rival, reason) -> labels of cases
    left_out: dict[str, list[str]] = field(default_factory=dict)  # reason -> labels of cases
    interrupted: bool = False
    running: str = "the roofs"  # the case that is under way

    def leave_out(self, label: str, reason: str) -> None:
        self.left_out.setdefault(reason, []).append(label)

    def notes(self) -> list[str]:
        """What the table does not show: what was wrong, missing and left out."""
        found = [f"WRONG     {line}" for line in self.wrong]
        found += [f"missing   {rival} ({reason}): {', '.join(on)}" for (rival, reason), on in self.absent.items()]
        found += [f"left out  ({reason}): {', '.join(labels)}" for reason, labels in self.left_out.items()]
        return found

    @property
    def exit_code(self) -> int:
        return 130 if self.interrupted else int(bool(self.wrong))


def line(kernel: str, case: str, rows: Sequence[Row], goal: Goal | None) -> tuple[str, ...]:
    """One line of the table from the rows of one case. Without ours there is nothing to compare."""
    by_name = {row.implementation.removesuffix(", no graph"): row for row in rows}
    ours = by_name.pop(OURS, None)
    if ours is None:
        return kernel, case, "WRONG", "", "", "", "", "-"
    best = min(by_name.values(), key=lambda row: row.seconds, default=None)
    rivals_s = {name: row.seconds for name, row in by_name.items()}
    score = Score(ours.seconds, ours.flops, ours.of_copy, ours.of_gemm, rivals_s)
    return (
        kernel,
        case,
        duration(ours.seconds) + (" no graph" if ours.implementation != OURS else ""),
        f"{duration(best.seconds)} {best.implementation}" if best else "",
        f"{best.seconds / ours.seconds:.2f}" if best else "",
        f"{100 * ours.of_copy:.0f}",
        f"{100 * ours.of_gemm:.0f}" if ours.flops else "",
        verdict(goal, score),
    )


def table(lines: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as they need be; `times` is how many times as fast as the best rival ours is."""
    if not lines:
        return "nothing was measured"
    widths = [max(map(len, column)) for column in zip(HEADER, *lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in (HEADER, *lines)
    )


def duration(seconds: float) -> str:
    """'4.31 us', '1.27 ms'."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 0.9995:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
