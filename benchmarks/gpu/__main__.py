"""The command line of `python -m benchmarks.gpu`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu import drive, table
from benchmarks.gpu.drive import Place, Ran
from benchmarks.gpu.model import GOALS
from benchmarks.gpu.steps import Step, steps

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 540.0


def main(argv: Sequence[str] | None = None) -> int:
    """-> 0; 1 where a step failed, 2 for a mistake on the command line."""
    every = {step.name: step for step in steps()}
    parser = _parser(list(every))
    options = parser.parse_args(argv)
    if not options.smoke and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --smoke runs every step at a tiny size, without one")
    chosen = [step for name, step in every.items() if not options.only or name in options.only]
    place = Place(ROOT, options.logs, options.out, options.smoke)
    for folder in (place.logs, place.measured):
        folder.mkdir(parents=True, exist_ok=True)
    say_plan(chosen, options.limit_s)
    ran = go(chosen, place, options.limit_s)
    if not options.smoke:
        show(place)
    for one in ran:
        print(
            f"{one.step.name:9} {one.state}, {one.seconds:.0f} s" + "".join(f"; died in {label}" for label in one.died)
        )
    return int(any(one.code != 0 or one.died for one in ran))


def say_plan(chosen: Sequence[Step], limit_s: float) -> None:
    """What is going to run, and what of it fits if all takes as long as it did on an H200."""
    ends_s = 0.0
    print(f"at most {limit_s:g} s; a step that was ended goes on with the next command where it stopped")
    for step in chosen:
        ends_s += 0.0 if step.beside else step.usual_s
        fits = "" if ends_s <= limit_s else "  (may not fit)"
        print(f"  {step.name:9} about {step.usual_s:3.0f} s, at most {step.limit_s:3.0f} s  {step.what}{fits}")
    sys.stdout.flush()


def go(chosen: Sequence[Step], place: Place, limit_s: float) -> list[Ran]:
    """One step after another, each in what is left of the time; those that need no GPU beside the first that do."""
    began, ran = time.monotonic(), []
    beside: list[tuple[Step, subprocess.Popen[bytes], float]] = []
    for step in chosen:
        left_s = limit_s - (time.monotonic() - began)
        if step.beside and not place.smoke:
            beside.append((step, drive.start(step, place, []), time.monotonic()))
            continue
        if step.name not in ("versions", "meet"):
            ran += [_finish(*one) for one in beside]
            beside = []
            left_s = limit_s - (time.monotonic() - began)
        if left_s < drive.LEAST_S:
            print(f"{step.name}: no time is left", flush=True)
            continue
        print(f"{time.monotonic() - began:4.0f} s  {step.name}: {step.what}", flush=True)
        ran.append(drive.run(step, place, min(step.limit_s, left_s)))
        _tail(place.log(step), whole=step.name == "versions")
    return ran + [_finish(*one) for one in beside]


def _finish(step: Step, process: subprocess.Popen[bytes], began: float) -> Ran:
    code = drive.wait(process, max(1.0, step.limit_s - (time.monotonic() - began)))
    return Ran(step, code, time.monotonic() - began)


def _tail(log: Path, *, whole: bool) -> None:
    """The end of a log; the whole of it is in the folder of logs."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines if whole else lines[-3:]:
        print(f"        {line[:200]}")
    sys.stdout.flush()


def show(place: Place) -> None:
    """The table of this card's file, what was wrong, and the goals."""
    from shardlab_kernels.bench import record, report

    path = place.measured / record.file_name(torch.cuda.get_device_name())
    found = table.lines(path, table.goals(GOALS))
    print(report.table(found))
    for log in sorted(place.logs.glob("*.log")):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("WRONG", "FAILED")):
                print(f"{log.stem}: {line}")
    print(
        "goals, the worst case of each: "
        + ", ".join(f"{goal} {state}" for goal, state in table.verdicts(found).items())
    )


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="All that only a GPU can say.")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="seconds in all (default: %(default)g)")
    parser.add_argument("--only", action="append", default=[], choices=names, help="only this step; repeatable")
    parser.add_argument("--out", type=Path, default=ROOT / "labs" / "measured", help="folder of the CSV")
    parser.add_argument("--logs", type=Path, default=ROOT / "build" / "gpu", help="folder of the steps' logs")
    parser.add_argument("--smoke", action="store_true", help="every step at a tiny size, no times; also without a GPU")
    return parser


if __name__ == "__main__":
    sys.exit(main())
