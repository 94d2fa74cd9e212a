"""The command line of the benchmark. What imports triton waits until --smoke has chosen the interpreter or not."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from shardlab_kernels.bench.case import Case
    from shardlab_kernels.bench.report import Outcome

BUDGET_S = 480.0
GRACE_S = 60.0  # what a case that began in time may take longer than expected
NOT_HERE = "not here   G2 (no copy of the tutorial's kernel is kept), G14-G16 (they need a whole model)"
COMMAND = "python -m shardlab_kernels.bench"


def main(argv: Sequence[str] | None = None) -> int:
    """-> 0; 1 where an implementation was wrong, 2 for a mistake on the command line, 130 after Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(argv)
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.smoke:
        parser.error(
            "there is no CUDA device to measure on. On a machine with one, run this again; here, --smoke checks every "
            "case without timing it"
        )
    if not has_gpu:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported: it is read once

    from shardlab_kernels.launch import INTERPRETED

    if INTERPRETED and not options.smoke:
        parser.error("TRITON_INTERPRET is set, and an interpreted kernel says nothing about a GPU: unset it")

    from shardlab_kernels.bench import record, run
    from shardlab_kernels.bench.cases import CASES
    from shardlab_kernels.bench.report import Outcome

    try:
        cases = chosen(CASES, options.only)
    except ValueError as error:
        parser.error(str(error))
    if options.smoke:
        device = torch.device("cpu") if INTERPRETED else torch.device("cuda", torch.cuda.current_device())
        outcome = run.smoke(cases, device)
        for note in outcome.notes():
            print(note)
        return outcome.exit_code
    device = torch.device("cuda", torch.cuda.current_device())
    folder = options.out or record.default_folder(Path(__file__).resolve(), Path.cwd())
    path = folder / record.file_name(torch.cuda.get_device_name(device))
    try:
        record.read(path)  # a file that cannot take our rows is better known now than in eight minutes
    except ValueError as error:
        parser.error(str(error))
    outcome = Outcome()
    watch = threading.Timer(options.budget_s + GRACE_S, give_up, [outcome, path])
    watch.daemon = True
    watch.start()
    run.measure(cases, CASES, device, outcome, path=path, budget_s=options.budget_s, command=_command(options))
    watch.cancel()
    print_last(outcome, path)
    return outcome.exit_code


def print_last(outcome: Outcome, path: Path) -> None:
    """The table, where it was written, and what it does not show."""
    from shardlab_kernels.bench.report import table

    written = f"written to {path}" if outcome.rows else "nothing was written"
    print(table(outcome.lines), written, NOT_HERE, *outcome.notes(), sep="\n", flush=True)


def give_up(outcome: Outcome, path: Path) -> None:
    """Long after the time: a kernel waits for ever, and so does the main thread, deaf to Ctrl-C. Print and leave."""
    outcome.wrong.append(f"{outcome.running} had not ended {GRACE_S:g} s after the time that was given: stopped")
    print_last(outcome, path)
    os._exit(1)


def chosen(cases: Sequence[Case], only: Sequence[str]) -> list[Case]:
    """The cases of these kernels and kernel/case labels; all for none. Raises ValueError for an unknown name."""
    kernels = list(dict.fromkeys(case.kernel for case in cases))
    labels = [case.label for case in cases]
    for name in only:
        if name not in kernels and name not in labels:
            raise ValueError(
                f"--only {name}: there is no such kernel or case. Kernels: {', '.join(kernels)}. Cases: "
                f"{', '.join(labels)}"
            )
    return [case for case in cases if not only or case.kernel in only or case.label in only]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Check and time every kernel on this GPU beside its rivals, within eight minutes."
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where the CSV goes (default: labs/measured of the checkout)"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="only this kernel, or kernel/case; repeatable"
    )
    parser.add_argument(
        "--budget-s", type=_seconds, default=BUDGET_S, help="start no case that would end later (default: %(default)g)"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="run and check every case at a tiny size, also without a GPU; no times"
    )
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: a number of seconds above 0 is needed")
    return value


def _command(options: argparse.Namespace) -> str:
    """What to type to measure the same again; where the file goes does not belong to it."""
    words = [COMMAND]
    for name in options.only:
        words += ["--only", shlex.quote(name)]
    if options.budget_s != BUDGET_S:
        words += ["--budget-s", f"{options.budget_s:g}"]
    return " ".join(words)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # while starting, or in --smoke: there is nothing to keep
        sys.exit(130)
