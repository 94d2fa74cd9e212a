"""labs/measured/kernels_<gpu>.csv: one row an implementation, each with where it comes from.

A run replaces the rows of the cases that it measured, on the same device; other rows stay, with their own date and
roofs. So a run that stops early, or one with --only, loses nothing. Rows of cases that are no more are dropped.
The last five columns are those of shardlab.measure.record, which reads the file.
"""

from __future__ import annotations

import csv
import os
import re
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One implementation of one case. of_copy = moved_bytes / seconds / copy_Bps; of_gemm the same with flops."""

    kernel: str
    case: str
    implementation: str  # 'ours', or the rival's name; ', no graph' where it could not be captured
    seconds: float  # of one call: the median of the rounds
    p10_s: float
    p90_s: float
    moved_bytes: int  # what the problem must move, not what a cache served
    flops: int
    copy_Bps: float  # device copy in the same run, read and written bytes both counted
    gemm_flops_per_s: float  # cuBLAS bf16 8192^3 in the same run
    of_copy: float
    of_gemm: float  # 0 where flops is 0
    max_error: float  # the largest |found - wanted| / (rms + |wanted|) against the reference
    triton: str  # version
    device: str
    torch: str
    backend: str
    date: str  # ISO day, UTC
    command: str


COLUMNS = tuple(field.name for field in fields(Row))


def write(path: Path, rows: Sequence[Row], known: Collection[tuple[str, str]]) -> None:
    """Put `rows` into the file at `path`; `known` holds (kernel, case) of all cases there are.

    Lines of a kernel that `known` does not name at all are another benchmark's, a whole model's say, and stay.
    The file is replaced as a whole, so that an interruption leaves the old one. Raises ValueError where it has other
    columns than these.
    """
    new = [{name: str(value) for name, value in asdict(row).items()} for row in rows]
    replaced = {_key(line) for line in new}
    kernels = {kernel for kernel, _ in known}
    kept = [
        line
        for line in read(path)
        if _key(line) not in replaced and ((line["kernel"], line["case"]) in known or line["kernel"] not in kernels)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows([*kept, *new])
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(path: Path) -> list[dict[str, str]]:
    """The lines of a file that `write` made, as text; none without a file. Raises ValueError as `write` does."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"{path.name} has columns {', '.join(reader.fieldnames or ())}; this benchmark writes "
                f"{', '.join(COLUMNS)}: move it away, or name another folder with --out"
            )
        return list(reader)


def done(path: Path, device: str, torch: str, triton: str) -> set[tuple[str, str]]:
    """(kernel, case) of what this device has measured already, of our implementation, under these versions."""
    here = (device, torch, triton)
    return {
        (line["kernel"], line["case"])
        for line in read(path)
        if (line["device"], line["torch"], line["triton"]) == here and line["implementation"].startswith("ours")
    }


def file_name(gpu: str) -> str:
    """'NVIDIA H100 80GB HBM3' -> 'kernels_h100.csv', 'NVIDIA GeForce RTX 4090' -> 'kernels_rtx_4090.csv'.

    Maker, memory and SXM are left out; PCIe and NVL stay: those cards are slower.
    """
    words = re.findall(r"[a-z0-9]+", gpu.lower())
    plain = r"nvidia|geforce|tesla|quadro|amd|instinct|\d+gb|hbm\w*|sxm\d*"
    kept = [word for word in words if not re.fullmatch(plain, word)]
    return f"kernels_{'_'.join(kept) or 'gpu'}.csv"


def default_folder(start: Path, fallback: Path) -> Path:
    """labs/measured of the checkout that holds `start`, else `fallback`."""
    for base in start.parents:
        if (base / "labs").is_dir() and (base / "kernels" / "shardlab_kernels").is_dir():
            return base / "labs" / "measured"
    return fallback


def _key(line: dict[str, str]) -> tuple[str, str, str]:
    return line["kernel"], line["case"], line["device"]
