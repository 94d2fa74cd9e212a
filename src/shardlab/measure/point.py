"""One measured point of a sweep, and the CSV that keeps it. No torch here: a recorded sweep is read without it."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from shardlab.measure import record
from shardlab.measure.record import Provenance, Value
from shardlab.theory import collectives


@dataclass(frozen=True)
class Point:
    """One implementation (op, algorithm, transport) at one size on world_size ranks. The fields are the CSV's columns.

    num_bytes is nccl-tests' size S. Times are of one call as the slowest rank saw it, over `rounds` samples. steps is
    the formula's. sent_bytes is the busiest rank's, for one call, and `counted` says how it was found: by the sockets'
    counters ("on the wire", framing included), by the transport's own counter ("in shared memory": copied into
    the rank's own slot and read from others'), or not at all ("recorded": the formula's payload). traffic[i][j] are
    the bytes from rank i to rank j; in shared memory, what j read of i's slot, and on the diagonal what a rank put
    into its own.
    """

    op: str
    algorithm: str
    transport: str
    backend: str  # "gloo" or "nccl"
    world_size: int
    num_bytes: int
    median_s: float
    p10_s: float
    p90_s: float
    algbw_Bps: float
    busbw_Bps: float
    steps: int
    sent_bytes: int
    counted: str
    traffic: tuple[tuple[int, ...], ...]
    rounds: int

    @property
    def implementation(self) -> tuple[str, str, str]:
        return self.op, self.algorithm, self.transport

    @property
    def formula_bytes(self) -> float:
        """What theory.collectives says that the busiest rank sends, or moves where memory is shared."""
        of = collectives.shared_memory_bytes if self.transport == "shared_memory" else collectives.wire_bytes
        return of(self.op, num_bytes=self.num_bytes, world_size=self.world_size, algorithm=self.algorithm)


def check(path: str | Path) -> None:
    """Raises ValueError where the file at `path` is not a CSV of points, so that none could be added to it."""
    wanted = {*Point.__dataclass_fields__, *record.PROVENANCE_COLUMNS}
    with Path(path).open(newline="", encoding="utf-8", errors="replace") as file:
        header = next(csv.reader(file), [])
    if set(header) != wanted:
        raise ValueError(f"it has columns {', '.join(header) or 'of no name'}, not those of a sweep")
    read(path)


def write(path: str | Path, points: Iterable[Point], provenance: Provenance) -> int:
    """Add points to a CSV of labs/measured, by measure.record.append; returns the rows written.

    `traffic` becomes text, a rank after the other: "0 1536; 1536 0". The backend is the point's own; it is also one
    of the provenance's columns, so it is written once.
    """
    written = 0
    for backend, rows in _by_backend(points).items():
        written += record.append(path, rows, Provenance(**{**asdict(provenance), "backend": backend}))
    return written


def read(path: str | Path) -> list[Point]:
    """The points of such a CSV. Raises ValueError for another file, naming what it lacks."""
    rows = record.read(path)
    missing = [name for name in Point.__dataclass_fields__ if rows and name not in rows[0]]
    if missing:
        raise ValueError(f"{Path(path).name} is no sweep: it has no column {', '.join(missing)}")
    return [_point(row) for row in rows]


def _by_backend(points: Iterable[Point]) -> dict[str, list[dict[str, Value]]]:
    rows: dict[str, list[dict[str, Value]]] = {}
    for point in points:
        row = asdict(point)
        row["traffic"] = "; ".join(" ".join(map(str, sent)) for sent in point.traffic)
        rows.setdefault(row.pop("backend"), []).append(row)
    return rows


def _point(row: dict[str, Value]) -> Point:
    fields = {name: row[name] for name in Point.__dataclass_fields__}
    traffic = tuple(tuple(int(sent) for sent in line.split()) for line in str(row["traffic"]).split(";"))
    floats = {name: float(row[name]) for name in ("median_s", "p10_s", "p90_s", "algbw_Bps", "busbw_Bps")}
    return Point(**{**fields, **floats, "traffic": traffic})
