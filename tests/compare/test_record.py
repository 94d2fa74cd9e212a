"""measure.record: no measurement without its provenance, and no half-written file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shardlab.measure import record
from shardlab.measure.record import Provenance

HERE = Provenance("a CPU, 2 cores", "2.13.0", "gloo", "2026-08-04", "make bench")


def test_rows_come_back_with_their_provenance(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "times.csv"
    assert record.append(path, [{"op": "all_reduce", "num_bytes": 1024, "seconds": 1.5e-6}], HERE) == 1
    later = replace(HERE, torch="2.14", date="2026-08-05")
    assert record.append(path, [{"seconds": 2.0, "op": "send, recv", "num_bytes": 8}], later) == 1
    first, second = record.read(path)
    assert first["num_bytes"] == 1024
    assert first["seconds"] == 1.5e-6
    assert (first["op"], second["op"]) == ("all_reduce", "send, recv")
    assert (first["torch"], second["torch"]) == ("2.13.0", "2.14")  # text, though it looks like a number
    assert list(first)[-5:] == list(record.PROVENANCE_COLUMNS)
    assert [file.name for file in path.parent.iterdir()] == ["times.csv"]


def test_no_rows_make_no_file(tmp_path: Path) -> None:
    assert record.append(tmp_path / "none.csv", [], HERE) == 0
    assert not (tmp_path / "none.csv").exists()


def test_other_columns_are_refused_and_leave_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    record.append(path, [{"op": "send", "seconds": 1}], HERE)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="times.csv has columns op, seconds, .*op, bytes"):
        record.append(path, [{"op": "send", "bytes": 1}], HERE)
    assert path.read_bytes() == before


def test_an_interruption_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "times.csv"
    record.append(path, [{"op": "send"}], HERE)
    before = path.read_bytes()

    def fail(source: str, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(record.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        record.append(path, [{"op": "send"}], HERE)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["times.csv"]


@pytest.mark.parametrize("field", record.PROVENANCE_COLUMNS)
def test_provenance_is_complete(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        replace(HERE, **{field: " "})


def test_a_date_is_a_day() -> None:
    with pytest.raises(ValueError, match="date='yesterday'"):
        replace(HERE, date="yesterday")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("op,seconds\nsend,1\n", "has no column device, torch, backend, date, command"),
        ("device,torch,backend,date,command\na,b,c\n", "line 2: 3 fields, the header has 5"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "broken.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"broken.csv.*{said}"):
        record.read(path)
