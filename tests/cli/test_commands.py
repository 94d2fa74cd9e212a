"""The commands as a person types them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shardlab.cli import examine as doctor
from shardlab.cli.examine import Finding


def shardlab(*args: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, "-m", "shardlab", *args]
    env = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=env, check=False)


def test_doctor_says_what_there_is_and_what_to_do() -> None:
    done = shardlab("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    for what in doctor.LOOKS:
        assert what in done.stdout
    assert "Ready. Ranks run on the CPU through gloo" in done.stdout
    assert not done.stderr


def test_a_look_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(what: str) -> Finding:
        raise KeyError("no such thing")

    monkeypatch.setattr(doctor, "LOOKS", {"memory": fails})
    (finding,) = doctor.examine()
    assert finding == Finding("memory", "without", "could not be examined: KeyError: 'no such thing'")


def test_a_package_that_is_not_there_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    finding = next(finding for finding in doctor.examine() if finding.what == "memory")
    assert (finding.state, finding.text) == ("missing", "psutil is not installed")


def test_doctor_is_honest_about_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.summary([Finding("gloo", "missing", "")]) == "Not ready: gloo first."
    good = [Finding(what, "ok", "") for what in ("GPUs", "wire counters")]
    assert doctor.summary(good) == (
        "Ready. Ranks run on the CPU through gloo, or one on each GPU through NCCL; bytes are counted on the wire."
    )
    assert "recorded by comm" in doctor.summary([])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = doctor.LOOKS["SmolLM2"]("SmolLM2")
    assert (model.state, model.advice) == ("without", "shardlab weights smollm2 (98 MB, once)")


def test_run_lists_the_programs() -> None:
    done = shardlab("run")
    assert done.returncode == 0
    assert "tensor.mlp_forward" in done.stdout
    assert all(len(line) <= 110 for line in done.stdout.splitlines())


@pytest.mark.ranks
def test_run_prints_results_and_bytes() -> None:
    done = shardlab("run", "tensor.all_reduce", "--tp", "2", "--set", "num_bytes=1048576")
    assert done.returncode == 0, done.stderr
    assert "rank 0: " in done.stdout and "rank 1: " in done.stdout
    assert "recorded, ranks 0, 1: 1 x all_reduce on tp of 1,048,576 bytes" in done.stdout
    assert "on the wire" in done.stdout


@pytest.mark.ranks
def test_a_rank_that_fails_is_named_with_exit_code_1() -> None:
    done = shardlab("run", "tensor.all_reduce", "--tp", "2", "--set", "num_bytes=64", "--set", "dtype=int3")
    assert done.returncode == 1
    assert "dtype='int3'; allowed: float32" in done.stderr


@pytest.mark.slow
def test_the_same_program_under_torchrun(tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = shardlab("run", "tensor.mlp_forward", launcher=torchrun)
    assert done.returncode == 0, done.stderr
    assert "rank 0: Parity" in done.stdout and "rank 1: Parity" in done.stdout
    refused = shardlab("run", "tensor.mlp_forward", "--tp", "3", launcher=torchrun)
    assert refused.returncode != 0
    assert "--tp 3: torchrun started 2 ranks; leave --tp away, or give 2" in refused.stderr
