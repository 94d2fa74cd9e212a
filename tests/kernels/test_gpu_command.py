"""`python -m benchmarks.gpu` without a GPU: its steps start, end at their limits, and go on behind what kills them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import drive, model, steps, table
from benchmarks.gpu.__main__ import ROOT, main
from benchmarks.gpu.drive import Place
from benchmarks.gpu.steps import Step
from shardlab_kernels.bench import record
from shardlab_kernels.bench.cases import CASES
from tests.kernels.test_bench_record import ROW

MEASURED = ROOT / "labs" / "measured" / "kernels_h200.csv"

# A bench of three cases, of which the second ends the process; it notes the case under way, as the real one does.
DYING = """
import os, sys
note = sys.argv[sys.argv.index("--note") + 1]
for case in ("one", "two", "three"):
    if case not in sys.argv:
        open(note, "w").write(case)
        print("ran", case, flush=True)
        if case == "two":
            os._exit(1)
os.unlink(note)
"""


def bench(code: str, name: str = "fake") -> Step:
    return Step(name, "", ("-c", code), ("-c", code), limit_s=60, usual_s=1, is_bench=True)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(ROOT, tmp_path, tmp_path, smoke=False)


def test_a_bench_goes_on_behind_the_case_that_killed_it(place: Place) -> None:
    ran = drive.run(bench(DYING), place, 60)
    assert ran.died == ["two"] and ran.code == 0
    assert place.log(ran.step).read_text().split() == ["ran", "one", "ran", "two", "ran", "one", "ran", "three"]


def test_a_step_is_ended_with_all_that_it_started(place: Place) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    ran = drive.run(replace(bench(code), is_bench=False), place, 1)
    assert ran.code is None and ran.seconds < 10 and ran.state == "stopped at its limit"


def test_without_a_gpu_it_says_what_to_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2 and "--smoke" in capsys.readouterr().err


def test_smoke(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The benches' own smoke is test_bench's."""
    words = [
        "--smoke",
        "--only",
        "versions",
        "--only",
        "model",
        "--logs",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"torch {torch.__version__}" in said and "INT4: off by" in said
    assert list((tmp_path / "out").iterdir()) == []


def test_every_kernel_of_the_bench_is_in_one_step() -> None:
    named = [*steps.MEET, *steps.COMPUTE, *steps.TALK]
    assert sorted(named) == sorted({case.kernel for case in CASES})
    assert sum(step.usual_s for step in steps.steps() if not step.beside) < 540


def test_kernels_are_compiled_ahead(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.gpu.compile_ahead", "--only", "silu_mul", "--only", "barrier"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment | {"TRITON_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("4 of 4 configurations compiled for sm_90")
    assert len(list(tmp_path.rglob("*.cubin"))) == 4


def test_the_worst_case_decides_a_goal(tmp_path: Path) -> None:
    path, card = tmp_path / "kernels_h100.csv", "NVIDIA H100 80GB HBM3"
    rows = [
        replace(ROW, kernel="barrier", case=f"ranks{n}", device=card, seconds=seconds)
        for n, seconds in ((8, 9e-6), (4, 3e-6), (2, 3e-6))
    ]
    record.write(path, rows, set())
    found = table.lines(path, table.goals(model.GOALS))
    assert [line[-1] for line in found] == ["G11 met", "G11 aim", "G11 aim"]
    assert table.verdicts(found) == {"G11": "met"}


def test_the_recorded_file_has_every_goal() -> None:
    found = table.lines(MEASURED, table.goals(model.GOALS))
    judged = {name for name, state in table.verdicts(found).items() if state != "-"}
    assert judged == {f"G{number}" for number in range(1, 17)} - {"G2"}
    assert len(found) == len(CASES) + len(model.GOALS)
