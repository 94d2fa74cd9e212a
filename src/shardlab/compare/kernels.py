"""Measured kernels beside what the roofline allows: the rows of labs/measured/kernels_*.csv. No torch here.

`python -m shardlab_kernels.bench` writes such a file on a machine with a GPU. Beside the kernels it times a copy and a
matrix product of the same run, so a kernel is held to what its own GPU reached that day and not to a data sheet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardlab.measure.record import read as read_rows

OURS = "ours"
NEEDED = (
    "kernel", "case", "implementation", "seconds", "p10_s", "p90_s", "moved_bytes", "flops", "copy_Bps",
    "gemm_flops_per_s",
)  # fmt: skip


@dataclass(frozen=True)
class Timed:
    """One implementation of one kernel on one case, as the bench timed it."""

    kernel: str
    case: str
    implementation: str  # "ours", or the rival's name
    seconds: float  # the median; p10_s and p90_s beside it
    p10_s: float
    p90_s: float
    moved_bytes: float  # 0 for a barrier
    flops: float  # 0 where the kernel only moves
    copy_Bps: float  # of the copy in the same run, read and written
    gemm_flops_per_s: float  # of the matrix product in the same run
    device: str

    @property
    def limit_s(self) -> float:
        """What this GPU's own copy and matrix product allow: max(bytes / copy rate, FLOPs / matrix product's rate)."""
        return max(self.moved_bytes / self.copy_Bps, self.flops / self.gemm_flops_per_s)

    @property
    def share(self) -> float:
        """How much of that limit was reached; above 1 where a tensor stayed in cache, 0 where there is no limit."""
        return self.limit_s / self.seconds


@dataclass(frozen=True)
class Pair:
    """Our kernel on one case, and the fastest rival where there is one."""

    ours: Timed
    rival: Timed | None

    @property
    def speedup(self) -> float | None:
        """The rival's time over ours: above 1 where ours is faster."""
        return None if self.rival is None else self.rival.seconds / self.ours.seconds


def read(folder: Path) -> list[Timed]:
    """The rows of every kernels_*.csv of a folder, file by file; none where there is no such file.

    Raises ValueError for missing columns, text where a number is needed, and times or rates that are not above 0.
    """
    return [_timed(path.name, row) for path in sorted(folder.glob("kernels_*.csv")) for row in read_rows(path)]


def pairs(rows: Iterable[Timed]) -> list[Pair]:
    """Ours against the fastest rival, case by case, in the order of the rows. Devices are never mixed."""
    found: dict[tuple[str, str, str], list[Timed]] = {}
    for row in rows:
        found.setdefault((row.device, row.kernel, row.case), []).append(row)
    result = []
    for own in found.values():
        ours = [row for row in own if row.implementation == OURS]
        rivals = [row for row in own if row.implementation != OURS]
        if ours:
            result.append(Pair(ours[-1], min(rivals, key=lambda row: row.seconds, default=None)))
    return result


def devices(rows: Sequence[Timed]) -> list[str]:
    """The GPUs that were measured, in the order of the rows."""
    return list(dict.fromkeys(row.device for row in rows))


def _timed(file: str, row: dict[str, Any]) -> Timed:
    missing = [name for name in NEEDED if name not in row]
    if missing:
        raise ValueError(f"{file} has no column {', '.join(missing)}")
    kernel, case = str(row["kernel"]), str(row["case"])

    def number(name: str, *, above_zero: bool = False) -> float:
        value = row[name] if row[name] != "" else 0.0
        if not isinstance(value, int | float):
            raise ValueError(f"{file}, {kernel} {case}: {name}={value!r} is no number")
        if above_zero and not value > 0:
            raise ValueError(f"{file}, {kernel} {case}: {name}={float(value)}; above 0 is needed")
        return float(value)

    return Timed(
        kernel=kernel,
        case=case,
        implementation=str(row["implementation"]),
        seconds=number("seconds", above_zero=True),
        p10_s=number("p10_s"),
        p90_s=number("p90_s"),
        moved_bytes=number("moved_bytes"),
        flops=number("flops"),
        copy_Bps=number("copy_Bps", above_zero=True),
        gemm_flops_per_s=number("gemm_flops_per_s", above_zero=True),
        device=str(row["device"]),
    )
