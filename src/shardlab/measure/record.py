"""Measurements as CSV files: our own, with where they come from, and other people's, one source a row."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path

Value = str | int | float


@dataclass(frozen=True)
class Provenance:
    """Where a measurement comes from; the last columns of every row. Raises ValueError for an empty field."""

    device: str  # 'Intel Xeon, 2 cores' or 'NVIDIA H100 80GB HBM3': what ran it
    torch: str  # torch's version
    backend: str  # 'gloo', 'nccl', or 'none'
    date: str  # ISO: 2026-08-04
    command: str  # what to type to measure it again

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not str(value).strip():
                raise ValueError(f"{name}={value!r}: a measurement needs its {name}")
        _check_date(self.date)


PROVENANCE_COLUMNS = tuple(field.name for field in fields(Provenance))


def append(path: str | Path, rows: Iterable[Mapping[str, Value]], provenance: Provenance) -> int:
    """Add rows to a CSV, each with its provenance; make the file with a header if need be. -> rows written.

    The file is replaced as a whole, so that an interruption leaves the old one.
    Raises ValueError where a row's columns differ from the file's, naming both.
    """
    path = Path(path)
    new = [{**row, **asdict(provenance)} for row in rows]
    if not new:
        return 0
    header = list(new[0])
    lines: list[dict[str, str]] = []
    if path.exists():
        header, lines = _read_lines(path)
    for row in new:
        if set(row) != set(header):
            raise ValueError(f"{path.name} has columns {', '.join(header)}; a row has {', '.join(row)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, header, lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
            writer.writerows(new)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return len(new)


def read(path: str | Path) -> list[dict[str, Value]]:
    """The rows of a CSV that `append` wrote, numbers as numbers, provenance as text.

    Raises ValueError for missing provenance columns and for a row of another length, naming file and line.
    """
    path = Path(path)
    header, lines = _read_lines(path)
    missing = [column for column in PROVENANCE_COLUMNS if column not in header]
    if missing:
        raise ValueError(f"{path.name} has no column {', '.join(missing)}: where is it from?")
    return [
        {name: text if name in PROVENANCE_COLUMNS else _number(text) for name, text in line.items()} for line in lines
    ]


@dataclass(frozen=True)
class Published:
    """One number that somebody published: a collective's time. The columns of labs/published/*.csv."""

    op: str
    num_bytes: int  # nccl-tests' size
    world_size: int
    num_nodes: int
    gpu: str
    system: str  # whose code ran: 'NCCL', 'vLLM custom all-reduce'
    algorithm: str  # as its authors call it; '' where they do not say
    seconds: float
    derived: bool  # True: we computed it from what was printed; the note says how
    date: str  # ISO day of the source or its measurement; '' where unknown
    source: str  # an address
    note: str


PUBLISHED_COLUMNS = tuple(field.name for field in fields(Published))


def read_published(path: str | Path) -> list[Published]:
    """The rows of a file of labs/published, checked. Raises ValueError naming file, line and fault."""
    path = Path(path)
    header, lines = _read_lines(path)
    if tuple(header) != PUBLISHED_COLUMNS:
        raise ValueError(f"{path.name} has columns {', '.join(header)}; expected {', '.join(PUBLISHED_COLUMNS)}")
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            rows.append(_published(line))
        except ValueError as error:
            raise ValueError(f"{path.name}, line {number}: {error}") from None
    return rows


def published_folder() -> Path:
    """labs/published: beside the running notebook, or in the checkout that this package is installed from."""
    here = Path.cwd()
    for base in (here, *here.parents, *Path(__file__).resolve().parents):
        for folder in (base / "published", base / "labs" / "published"):
            if folder.is_dir():
                return folder
    raise FileNotFoundError("labs/published was found neither here nor beside the package")


def _published(line: Mapping[str, str]) -> Published:
    for column in ("op", "gpu", "system", "source"):
        if not line[column].strip():
            raise ValueError(f"{column} is empty")
    if not line["source"].startswith("https://"):
        raise ValueError(f"source={line['source']!r} is not an address")
    if line["derived"] not in ("yes", "no"):
        raise ValueError(f"derived={line['derived']!r}; allowed: yes, no")
    if line["derived"] == "yes" and not line["note"]:
        raise ValueError("a derived number needs a note that says how")
    if line["date"]:
        _check_date(line["date"])
    counts = {column: int(line[column]) for column in ("num_bytes", "world_size", "num_nodes")}
    seconds = float(line["seconds"])
    if min(counts.values()) < 1 or not seconds > 0:
        raise ValueError("num_bytes, world_size, num_nodes and seconds are above 0")
    return Published(
        op=line["op"],
        gpu=line["gpu"],
        system=line["system"],
        algorithm=line["algorithm"],
        seconds=seconds,
        derived=line["derived"] == "yes",
        date=line["date"],
        source=line["source"],
        note=line["note"],
        **counts,
    )


def _read_lines(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows as text; every row has as many fields as the header."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, None)
        if not header:
            raise ValueError(f"{path.name} is empty")
        lines = []
        for row in reader:
            if len(row) != len(header):
                raise ValueError(
                    f"{path.name}, line {reader.line_num}: {len(row)} fields, the header has {len(header)}"
                )
            lines.append(dict(zip(header, row, strict=True)))
    return header, lines


def _number(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _check_date(text: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"date={text!r} is not a day like 2026-08-04") from None
