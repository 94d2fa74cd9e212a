"""`python -m shardlab_kernels.bench`: every case at a tiny size, and what a mistake is answered with."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from shardlab_kernels import launch
from shardlab_kernels.bench import __main__ as command
from shardlab_kernels.bench.__main__ import main
from shardlab_kernels.bench.cases import CASES
from shardlab_kernels.bench.report import Outcome
from shardlab_kernels.bench.watch import Watch


def bench(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command as a user types it: nobody has set TRITON_INTERPRET for them."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "shardlab_kernels.bench", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=110)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
    folder = tmp_path_factory.mktemp("smoke")
    return bench("--smoke", cwd=folder), list(folder.iterdir())


def test_every_case_builds_runs_and_is_right(smoke: tuple[subprocess.CompletedProcess[str], list[Path]]) -> None:
    done, written = smoke
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if "/" in line.split(": ")[0])
    assert list(said) == [case.label for case in CASES]
    for label, result in said.items():
        assert result.startswith("ours "), f"{label}: {result}"
    assert written == []


def test_only_known_rivals_are_missing(smoke: tuple[subprocess.CompletedProcess[str], list[Path]]) -> None:
    # A rival whose call has a mistake would only be reported as missing: here it is noticed.
    done, _ = smoke
    absent = {line.removeprefix("missing   ").split(" (")[0] for line in done.stdout.splitlines() if "missing" in line}
    assert absent <= {"torch.compile", "SDPA cuDNN"}
    assert "WRONG" not in done.stdout


def test_names_are_unique_and_goals_covered() -> None:
    labels = [case.label for case in CASES]
    assert len(set(labels)) == len(labels)
    held = {case.goal.name for case in CASES if case.goal}
    assert held == {f"G{number}" for number in range(1, 14)} - {"G2"}


def mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    return capsys.readouterr().err


def test_without_a_gpu_it_says_what_to_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = mistake(capsys)
    assert "there is no CUDA device to measure on" in said
    assert "--smoke" in said


def test_interpreted_kernels_are_not_timed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launch, "INTERPRETED", True)
    assert "TRITON_INTERPRET is set" in mistake(capsys)


@pytest.mark.parametrize("name", ["flash", "merge/", "flash_attention/nope", ""])
def test_an_unknown_name_is_answered_with_those_there_are(capsys: pytest.CaptureFixture[str], name: str) -> None:
    said = " ".join(mistake(capsys, "--smoke", "--only", "merge", "--only", name).split())
    assert f"--only {name}: there is no such kernel or case" in said
    assert "flash_attention, flash_decode, merge" in said
    assert "merge/decode_p8" in said


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "inf", "soon"])
def test_a_budget_is_a_number_of_seconds(capsys: pytest.CaptureFixture[str], budget: str) -> None:
    assert "--budget-s" in mistake(capsys, f"--budget-s={budget}")


def test_only_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--smoke", "--only", "merge", "--only", "skinny_matmul/m1_8192x8192"]) == 0
    labels = [line.split(": ")[0] for line in capsys.readouterr().out.splitlines() if "ours" in line]
    assert labels == ["merge/decode_p8", "skinny_matmul/m1_8192x8192"]


def test_a_kernel_that_waits_for_ever_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left: list[int] = []
    monkeypatch.setattr(command.os, "_exit", left.append)
    command.give_up(Outcome(running="barrier/ranks8"), tmp_path / "kernels.csv", 60)
    assert left == [1]
    said = capsys.readouterr().out
    assert "WRONG     barrier/ranks8 had not ended after 60 s: stopped" in said
    assert "nothing was written" in said


def test_the_case_under_way_is_noted_until_it_ends(tmp_path: Path) -> None:
    note, gone = tmp_path / "case", threading.Event()
    watch = Watch(0.05, gone.set, note)
    watch.begin("merge/decode_p8")
    assert note.read_text() == "merge/decode_p8" and gone.wait(5)
    watch.end()
    assert not note.exists()
    gone.clear()
    Watch().begin("never given up")
    assert not gone.is_set()


def test_skip_and_only() -> None:
    kept = [case.label for case in command.chosen(CASES, ["barrier", "merge"], ["barrier/ranks4", "merge"])]
    assert kept == ["barrier/ranks8", "barrier/ranks2"]
    with pytest.raises(ValueError, match="--skip nothing: there is no such kernel"):
        command.chosen(CASES, [], ["nothing"])


@pytest.mark.gpu
def test_measures_on_a_gpu(tmp_path: Path) -> None:
    done = bench("--only", "merge", "--only", "silu_mul", "--out", str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "out").iterdir()
    assert path.name.startswith("kernels_")
    assert "silu_mul" in done.stdout
    assert str(tmp_path) not in path.read_text()  # where it went is nobody's business
