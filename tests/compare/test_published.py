"""labs/published: one source a row, and every row complete."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from shardlab.measure import record
from shardlab.theory.collectives import ALGORITHMS, busbw_Bps
from shardlab.theory.transformer import MODELS

FOLDER = Path(__file__).resolve().parents[2] / "labs" / "published"
ALL_REDUCE = sorted(FOLDER.glob("allreduce_*.csv"))
COLLECTIVES = [*ALL_REDUCE, FOLDER / "nccl_tests_h100.csv"]
GOOD = {
    "op": "all_reduce",
    "num_bytes": "1024",
    "world_size": "8",
    "num_nodes": "1",
    "gpu": "H100",
    "system": "NCCL",
    "algorithm": "",
    "seconds": "1e-05",
    "derived": "no",
    "date": "",
    "source": "https://example.org",
    "note": "",
}


def write(path: Path, row: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    return path


@pytest.mark.parametrize("path", COLLECTIVES, ids=lambda path: path.stem)
def test_every_bundled_row_is_complete(path: Path) -> None:
    rows = record.read_published(path)
    assert rows
    keys = [(row.op, row.num_bytes, row.world_size, row.num_nodes, row.gpu, row.system, row.source) for row in rows]
    assert len(set(keys)) == len(keys)
    for row in rows:
        assert row.op in ALGORITHMS
        assert row.world_size % row.num_nodes == 0
        assert 1e-6 < row.seconds < 1


def test_the_files_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(ALL_REDUCE) == 4
    monkeypatch.chdir(tmp_path)
    assert record.published_folder() == FOLDER
    monkeypatch.chdir(FOLDER.parent)
    assert record.published_folder() == FOLDER


def test_numbers_that_the_lab_quotes() -> None:
    rows = record.read_published(FOLDER / "allreduce_8xh100.csv")
    by_system = {row.system: row.seconds for row in rows if (row.num_bytes, row.world_size) == (32_768, 8)}
    assert by_system["SGLang custom all-reduce"] == pytest.approx(7.8e-6)
    assert by_system["vLLM custom all-reduce"] == pytest.approx(11.8e-6)
    assert by_system["NCCL (torch.distributed)"] == pytest.approx(22.65e-6)


def test_bus_bandwidths_that_nccl_tests_printed() -> None:
    """nccl-tests printed time and busbw; the times are bundled, the busbw below is its own, in GB/s."""
    rows = {
        (row.op, row.world_size, row.num_bytes): row for row in record.read_published(FOLDER / "nccl_tests_h100.csv")
    }
    four = "291.61 312.14 328.65 341.78 348.91 354.56 361.91 364.49 366.43 367.74"
    eight = "320.32 373.63 416.02 434.61 444.15 469.63 476.70 480.49 482.12 482.75"
    printed = {
        ("all_gather", 8, 1 << 30): 345.91,
        ("reduce_scatter", 4, 1 << 28): 297.68,
        ("all_to_all", 8, 1 << 27): 287.58,
        ("send", 4, 1 << 26): 157.96,
    }
    for world_size, text in ((4, four), (8, eight)):
        printed |= {("all_reduce", world_size, 1 << 25 + at): float(one) for at, one in enumerate(text.split())}
    for (op, world_size, num_bytes), wanted in printed.items():
        seconds = rows[op, world_size, num_bytes].seconds
        found = busbw_Bps(op, num_bytes=num_bytes, world_size=world_size, seconds=seconds)
        assert found / 1e9 == pytest.approx(wanted, rel=1e-4)


def test_derived_times_follow_from_what_was_printed() -> None:
    for row in record.read_published(FOLDER / "allreduce_8xh200.csv"):
        assert row.derived
        printed = float(row.note.split("algbw ")[1].split(" ")[0])
        assert row.num_bytes / row.seconds / 1e9 == pytest.approx(printed, rel=2e-3)


def test_decode_rates_name_known_models() -> None:
    with (FOLDER / "decode_gpt_fast_a100.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert row["model"] in MODELS
            assert row["source"].startswith("https://")
            assert float(row["tokens_per_s"]) > 0


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("gpu", "", "gpu is empty"),
        ("source", "a friend", "source='a friend' is not an address"),
        ("derived", "maybe", "derived='maybe'; allowed: yes, no"),
        ("derived", "yes", "a derived number needs a note"),
        ("seconds", "0", "above 0"),
        ("seconds", "soon", "could not convert"),
        ("num_bytes", "0", "above 0"),
        ("world_size", "1.5", "invalid literal"),
        ("date", "2026", "date='2026'"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, field: str, value: str, said: str) -> None:
    path = write(tmp_path / "bad.csv", {**GOOD, field: value})
    with pytest.raises(ValueError, match=f"bad.csv, line 2: .*{said}"):
        record.read_published(path)


def test_a_good_row_is_read(tmp_path: Path) -> None:
    (row,) = record.read_published(write(tmp_path / "good.csv", GOOD))
    assert (row.num_bytes, row.seconds, row.derived) == (1024, 1e-5, False)


def test_other_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other.csv has columns op; expected op, num_bytes"):
        record.read_published(write(tmp_path / "other.csv", {"op": "send"}))
