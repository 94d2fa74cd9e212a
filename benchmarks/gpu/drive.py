"""Run a step: a process with a log and a time limit. A bench that dies goes on behind the case that killed it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu.steps import Step

MOST_DEATHS = 5  # of one bench: after so many cases that end their process, something else is wrong
LEAST_S = 10.0  # a process needs some seconds to import torch


@dataclass
class Ran:
    """How a step came out. `died`: cases that ended their process, by a hang or a broken context."""

    step: Step
    code: int | None  # None: it was ended at its limit
    seconds: float
    died: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        return "stopped at its limit" if self.code is None else "ok" if not self.code else f"exit code {self.code}"


@dataclass(frozen=True)
class Place:
    """Where a command runs: folder of the logs, folder of the CSV, and whether at a tiny size."""

    root: Path
    logs: Path
    measured: Path
    smoke: bool

    def words(self, step: Step, skip: list[str]) -> list[str]:
        if self.smoke:
            return [sys.executable, *step.smoke_words]
        own: list[str] = []
        if step.is_bench:
            own = ["--out", str(self.measured), "--note", str(self.note(step))]
            own += [word for label in skip for word in ("--skip", label)]
        elif step.name == "model":
            own = ["--out", str(self.measured)]
        return [sys.executable, *step.words, *own]

    def note(self, step: Step) -> Path:
        return self.logs / f"{step.name}.case"

    def log(self, step: Step) -> Path:
        return self.logs / f"{step.name}.log"


def start(step: Step, place: Place, skip: list[str]) -> subprocess.Popen[bytes]:
    """Its output goes to its log; it leads a group of its own, so that all it started can be ended with it."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    if step.name == "tests":
        environment["SHARDLAB_AUTOTUNE"] = "first"
    if not place.smoke and step.name == "compile":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with place.log(step).open("ab") as log:
        return subprocess.Popen(
            place.words(step, skip), cwd=place.root, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def run(step: Step, place: Place, limit_s: float) -> Ran:
    """Wait for it, at most `limit_s`; start a bench again without a case that it died in."""
    began, died = time.monotonic(), []
    place.note(step).unlink(missing_ok=True)
    while True:
        left_s = limit_s - (time.monotonic() - began)
        code = wait(start(step, place, died), max(left_s, 1.0))
        note = place.note(step)
        if note.exists():
            died.append(note.read_text(encoding="utf-8"))
            note.unlink()
        else:
            return Ran(step, code, time.monotonic() - began, died)
        if len(died) >= MOST_DEATHS or limit_s - (time.monotonic() - began) < LEAST_S:
            return Ran(step, code, time.monotonic() - began, died)


def wait(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """-> its exit code; None where it had to be ended."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        end(process)
        return None
    except KeyboardInterrupt:
        end(process)
        raise


def end(process: subprocess.Popen[bytes]) -> None:
    """The process and all it started: gently, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(3)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
