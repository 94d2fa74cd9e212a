"""The benchmark's CSV: what reads it, what a second run replaces, what it is called. All rows here are made up."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from shardlab.measure.record import PROVENANCE_COLUMNS
from shardlab.measure.record import read as read_measured
from shardlab_kernels.bench import record
from shardlab_kernels.bench.record import COLUMNS, Row, default_folder, file_name, write

ROW = Row(
    kernel="merge",
    case="small",
    implementation="ours",
    seconds=3.25e-6,
    p10_s=3e-6,
    p90_s=4e-6,
    moved_bytes=70000,
    flops=0,
    copy_Bps=1e12,
    gemm_flops_per_s=2e12,
    of_copy=0.0215,
    of_gemm=0.0,
    max_error=1e-3,
    triton="0.0 (test data)",
    device="no device (test data)",
    torch="0.0",
    backend="none",
    date="2026-01-31",
    command="test data, measured by nobody",
)
KNOWN = {("merge", "small"), ("merge", "large"), ("rope_", "small")}


def test_columns_are_those_of_the_plan() -> None:
    assert COLUMNS == (
        "kernel", "case", "implementation", "seconds", "p10_s", "p90_s", "moved_bytes", "flops",
        "copy_Bps", "gemm_flops_per_s", "of_copy", "of_gemm", "max_error", "triton",
        "device", "torch", "backend", "date", "command",
    )  # fmt: skip
    assert COLUMNS[-len(PROVENANCE_COLUMNS) :] == PROVENANCE_COLUMNS


def test_shardlab_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "labs" / "measured" / "kernels_none.csv"
    rows = [ROW, replace(ROW, implementation="SDPA, flash", command='with "quotes", and commas')]
    write(path, rows, KNOWN)
    assert read_measured(path) == [asdict(row) for row in rows]
    assert [child.name for child in path.parent.iterdir()] == [path.name]  # no temporary file is left


def seconds(path: Path) -> dict[tuple[str, str, str, str], float]:
    return {
        (line["device"], line["kernel"], line["case"], line["implementation"]): float(line["seconds"])
        for line in record.read(path)
    }


def test_a_second_run_replaces_its_own_cases_only(tmp_path: Path) -> None:
    path = tmp_path / "kernels_none.csv"
    old = [
        ROW,
        replace(ROW, implementation="a rival of then"),
        replace(ROW, case="large", date="2026-01-01"),
        replace(ROW, device="another card"),
        replace(ROW, case="gone"),
        replace(ROW, kernel="a model"),
    ]
    write(path, old, KNOWN | {("merge", "gone")})
    assert len(record.read(path)) == 6
    write(path, [replace(ROW, seconds=1e-6), replace(ROW, kernel="rope_")], KNOWN)
    assert seconds(path) == {
        (ROW.device, "merge", "large", "ours"): ROW.seconds,  # not measured again: kept, with its own date
        ("another card", "merge", "small", "ours"): ROW.seconds,
        (ROW.device, "merge", "small", "ours"): 1e-6,  # replaced, and its rival of then is no more
        (ROW.device, "rope_", "small", "ours"): ROW.seconds,
        (ROW.device, "a model", "small", "ours"): ROW.seconds,  # another benchmark's
    }  # the case that the benchmark no longer has is gone
    assert {line["date"] for line in record.read(path)} == {"2026-01-31", "2026-01-01"}


def test_what_is_done_is_of_the_same_card_and_versions(tmp_path: Path) -> None:
    path = tmp_path / "kernels_none.csv"
    rows = [
        ROW,
        replace(ROW, case="large", implementation="a rival"),
        replace(ROW, kernel="rope_", torch="0.1"),
        replace(ROW, kernel="silu_mul", implementation="ours, no graph"),
    ]
    write(path, rows, set())
    assert record.done(path, ROW.device, ROW.torch, ROW.triton) == {("merge", "small"), ("silu_mul", "small")}


def test_another_table_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "kernels_none.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"kernels_none\.csv has columns a, b; .* move it away"):
        write(path, [ROW], KNOWN)
    assert path.read_text() == "a,b\n1,2\n"


def test_an_interruption_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kernels_none.csv"
    write(path, [ROW], KNOWN)
    before = path.read_text()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(record.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write(path, [replace(ROW, seconds=1.0)], KNOWN)
    assert path.read_text() == before
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "kernels_h100.csv"),
        ("NVIDIA H200", "kernels_h200.csv"),
        ("NVIDIA H100 PCIe", "kernels_h100_pcie.csv"),
        ("NVIDIA H100 NVL", "kernels_h100_nvl.csv"),
        ("NVIDIA A100-SXM4-80GB", "kernels_a100.csv"),
        ("NVIDIA GeForce RTX 4090", "kernels_rtx_4090.csv"),
        ("NVIDIA GH200 480GB", "kernels_gh200.csv"),
        ("Tesla T4", "kernels_t4.csv"),
        ("AMD Instinct MI300X", "kernels_mi300x.csv"),
        ("../../etc", "kernels_etc.csv"),
        ("NVIDIA", "kernels_gpu.csv"),
    ],
)
def test_the_file_is_called_after_the_card(gpu: str, name: str) -> None:
    assert file_name(gpu) == name


def test_the_folder_is_that_of_the_checkout(tmp_path: Path) -> None:
    start = tmp_path / "kernels" / "shardlab_kernels" / "bench" / "__main__.py"
    start.parent.mkdir(parents=True)
    assert default_folder(start, tmp_path / "here") == tmp_path / "here"  # installed somewhere, no checkout
    (tmp_path / "labs").mkdir()
    assert default_folder(start, tmp_path / "here") == tmp_path / "labs" / "measured"
