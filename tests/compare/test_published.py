"""labs/published: one source a row, and every row complete."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from shardlab.measure import record
from shardlab.theory.collectives import ALGORITHMS
from shardlab.theory.transformer import MODELS

FOLDER = Path(__file__).resolve().parents[2] / "labs" / "published"
ALL_REDUCE = sorted(FOLDER.glob("allreduce_*.csv"))
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


@pytest.mark.parametrize("path", ALL_REDUCE, ids=lambda path: path.stem)
def test_every_bundled_row_is_complete(path: Path) -> None:
    rows = record.read_published(path)
    assert rows
    keys = [(row.num_bytes, row.world_size, row.num_nodes, row.gpu, row.system, row.source) for row in rows]
    assert len(set(keys)) == len(keys)
    for row in rows:
        assert row.op in ALGORITHMS
        assert row.world_size % row.num_nodes == 0
        assert 1e-6 < row.seconds < 1


def test_the_files_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(ALL_REDUCE) == 3
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
