"""compare_kernels: made-up rows of the bench, read, paired and held to the roofline of their own run."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardlab.compare import kernels as compare_kernels
from shardlab.measure.record import Provenance, Value, append

H100 = Provenance("NVIDIA H100 80GB HBM3", "2.13.0", "none", "2026-12-01", "python -m shardlab_kernels.bench")


def row(kernel: str, case: str, implementation: str, seconds: float, flops: float = 0.0) -> dict[str, Value]:
    return {
        "kernel": kernel, "case": case, "implementation": implementation, "seconds": seconds, "p10_s": 0.9 * seconds,
        "p90_s": 1.1 * seconds, "moved_bytes": 3e8, "flops": flops, "copy_Bps": 3e12, "gemm_flops_per_s": 8e14,
        "of_copy": 1e-4 / seconds, "of_gemm": 0.0, "max_error": 1e-3, "triton": "3.7.1",
    }  # fmt: skip


ROWS = [
    row("silu_mul", "8192 x 14336", "ours", 125e-6),
    row("silu_mul", "8192 x 14336", "torch", 250e-6),
    row("silu_mul", "8192 x 14336", "torch.compile", 120e-6),
    row("flash_attention", "8192", "ours", 2e-3, flops=8e11),
]


def test_no_folder_no_rows(tmp_path: Path) -> None:
    assert compare_kernels.read(tmp_path / "labs" / "measured") == []
    assert compare_kernels.pairs([]) == []


def test_ours_against_the_fastest_rival(tmp_path: Path) -> None:
    append(tmp_path / "kernels_h100.csv", ROWS, H100)
    append(tmp_path / "links.csv", [{"seconds": 1.0}], H100)  # another measurement beside it
    silu, attention = compare_kernels.pairs(compare_kernels.read(tmp_path))
    assert silu.rival is not None and silu.rival.implementation == "torch.compile"
    assert silu.speedup == pytest.approx(120 / 125)
    assert silu.ours.share == pytest.approx(0.8)  # 100 us by the copy's rate
    assert (attention.rival, attention.speedup) == (None, None)
    assert attention.ours.share == pytest.approx(0.5)  # 1 ms by the matrix product's rate
    assert silu.ours.device == H100.device


def test_devices_are_not_mixed(tmp_path: Path) -> None:
    append(tmp_path / "kernels_h100.csv", ROWS[:1], H100)
    append(tmp_path / "kernels_h200.csv", ROWS[1:2], Provenance("NVIDIA H200", "2.13.0", "none", "2026-12-01", "x"))
    (pair,) = compare_kernels.pairs(compare_kernels.read(tmp_path))
    assert pair.rival is None


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("seconds", 0.0, r"kernels_x\.csv, silu_mul 8192 x 14336: seconds=0\.0; above 0"),
        ("copy_Bps", "", "copy_Bps=0.0"),
        ("flops", "many", "flops='many' is no number"),
    ],
)
def test_a_bad_row_says_what_is_wrong(tmp_path: Path, column: str, value: Value, words: str) -> None:
    append(tmp_path / "kernels_x.csv", [{**ROWS[0], column: value}], H100)
    with pytest.raises(ValueError, match=words):
        compare_kernels.read(tmp_path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    append(tmp_path / "kernels_x.csv", [{name: value for name, value in ROWS[0].items() if name != "flops"}], H100)
    with pytest.raises(ValueError, match=r"kernels_x\.csv has no column flops"):
        compare_kernels.read(tmp_path)
