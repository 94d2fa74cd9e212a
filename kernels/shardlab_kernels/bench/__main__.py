"""The command line of the benchmark. What imports triton waits until --smoke has chosen the interpreter or not."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from shardlab_kernels.bench.case import Case
    from shardlab_kernels.bench.report import Outcome

BUDGET_S = 480.0
CASE_S = 60.0  # what a case may take, with all that its kernels compile and tune
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
    from shardlab_kernels.bench.watch import Watch

    try:
        cases = chosen(CASES, options.only, options.skip)
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
        # A file that cannot take our rows is better known now than in eight minutes.
        done = record.done(path, *run.versions(device))
    except ValueError as error:
        parser.error(str(error))
    if options.resume:
        cases = [case for case in cases if (case.kernel, case.name) not in done]
    outcome = Outcome()
    watch = Watch(options.case_s, lambda: give_up(outcome, path, options.case_s), options.note)
    run.measure(
        cases,
        CASES,
        device,
        outcome,
        path=path,
        budget_s=options.budget_s,
        command=_command(options),
        without=options.without,
        watch=watch,
    )
    print_last(outcome, path)
    return outcome.exit_code


def print_last(outcome: Outcome, path: Path) -> None:
    """The table, where it was written, and what it does not show."""
    from shardlab_kernels.bench.report import table

    written = f"written to {path}" if outcome.rows else "nothing was written"
    print(table(outcome.lines), written, NOT_HERE, *outcome.notes(), sep="\n", flush=True)


def give_up(outcome: Outcome, path: Path, case_s: float) -> None:
    """Long after the time: a kernel waits for ever, and so does the main thread, deaf to Ctrl-C. Print and leave."""
    outcome.wrong.append(f"{outcome.running} had not ended after {case_s:g} s: stopped")
    print_last(outcome, path)
    os._exit(1)


def chosen(cases: Sequence[Case], only: Sequence[str], skip: Sequence[str] = ()) -> list[Case]:
    """The cases of these kernels and kernel/case labels, all for none, but those to skip.

    Raises ValueError for an unknown name.
    """
    kernels = list(dict.fromkeys(case.kernel for case in cases))
    labels = [case.label for case in cases]
    for option, names in (("--only", only), ("--skip", skip)):
        for name in names:
            if name not in kernels and name not in labels:
                raise ValueError(
                    f"{option} {name}: there is no such kernel or case. Kernels: {', '.join(kernels)}. Cases: "
                    f"{', '.join(labels)}"
                )
    wanted = [case for case in cases if not only or case.kernel in only or case.label in only]
    return [case for case in wanted if case.kernel not in skip and case.label not in skip]


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
    parser.add_argument("--skip", action="append", default=[], metavar="NAME", help="not this kernel, or kernel/case")
    parser.add_argument("--without", action="append", default=[], metavar="RIVAL", help="leave this rival out")
    parser.add_argument("--resume", action="store_true", help="not what the CSV has from this card and these versions")
    parser.add_argument(
        "--note", type=Path, metavar="FILE", help="holds the name of the case under way; gone at the end"
    )
    parser.add_argument(
        "--case-s", type=_seconds, default=CASE_S, help="stop where a case takes longer (default: %(default)g)"
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
