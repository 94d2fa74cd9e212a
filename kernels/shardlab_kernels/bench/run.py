"""The run itself: roofs, then case by case check, time, write; roofs again; or --smoke: check only."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
import triton

from shardlab_kernels.bench import record, roof
from shardlab_kernels.bench.budget import Budget
from shardlab_kernels.bench.case import Case, Place
from shardlab_kernels.bench.check import Checked, check, reason
from shardlab_kernels.bench.clock import Prepared, Stats, interleave, num_copies, prepare
from shardlab_kernels.bench.record import Row
from shardlab_kernels.bench.report import Outcome, duration, line
from shardlab_kernels.bench.watch import Watch

Times = Mapping[str, tuple[Stats, bool]]  # implementation -> its stats, and whether a graph held it


def smoke(cases: Sequence[Case], device: torch.device) -> Outcome:
    """Every case at a tiny size against its reference. Nothing is timed, nothing is written."""
    outcome = Outcome()
    for case in cases:
        checked = _checked(case, Place(device, smoke=True), outcome)
        if checked is None:
            continue
        said = ", ".join(f"{name} {checked.errors[name]:.1e}" for name in checked.calls)
        alone = (
            f" (1 rank; {case.ranks} need a GPU)" if Place(device, smoke=True).ranks(case.ranks) < case.ranks else ""
        )
        print(f"{case.label}: {said or 'nothing ran right'}{alone}", flush=True)
    return outcome


def measure(
    cases: Sequence[Case],
    every: Sequence[Case],
    device: torch.device,
    outcome: Outcome,
    *,
    path: Path,
    budget_s: float,
    command: str,
    without: Sequence[str] = (),
    watch: Watch | None = None,
) -> None:
    """Check and time `cases` on a GPU, write their rows to `path` one case after the other, and tell `outcome`.

    `every` is what the benchmark has: rows of cases that it lacks leave the file. `without`: rivals to leave out.
    Ctrl-C keeps what was measured.
    """
    watch = watch or Watch()
    budget = Budget(budget_s)
    judged = is_judged(torch.cuda.get_device_name(device))
    known = {(case.kernel, case.name) for case in every} | {(kernel, when) for kernel in _ROOFS for when in _WHENS}
    provenance = provenance_of(device, command)

    def keep(rows: Sequence[Row]) -> None:
        outcome.rows += rows
        record.write(path, outcome.rows, known)

    try:
        say(f"{provenance['device']}{_clock(device)}, torch {torch.__version__}, triton {triton.__version__}")
        top = roof.measure(device)
        keep(_roof_rows(top, top, "start", provenance))
        say(f"copy {top.copy_Bps / 1e12:.2f} TB/s, GEMM {top.gemm_flops_per_s / 1e12:.0f} TFLOP/s")
        for case in cases:
            if not budget.fits(case.kernel):
                outcome.leave_out(case.label, f"did not fit in {budget_s:g} s")
                continue
            outcome.running = case.label
            watch.begin(case.label)
            started = time.monotonic()
            rows = _measure_one(case, Place(device, smoke=False), top, provenance, outcome, without)
            _forget()
            budget.took(case.kernel, time.monotonic() - started)
            if rows:
                keep(rows)
            if rows is not None:
                outcome.lines.append(line(case.kernel, case.name, rows, case.goal if judged else None))
            say(f"{budget_s - budget.left_s:4.0f} s  {case.label}  {_brief(rows)}")
        watch.end()
        outcome.running = "the roofs"
        later = roof.measure(device)
        keep(_roof_rows(later, top, "end", provenance))
        say(f"roofs since the start: {top.drift(later)}{_clock(device)}")
    except KeyboardInterrupt:
        watch.end()
        outcome.interrupted = True
    except RuntimeError as error:  # after a kernel's illegal access nothing runs in this process; the rows are kept
        outcome.wrong.append(f"the run broke off at {outcome.running}: {reason(error)}")


def versions(device: torch.device) -> tuple[str, str, str]:
    """-> (the card's name, torch's version, Triton's)."""
    return torch.cuda.get_device_name(device), torch.__version__, triton.__version__


def provenance_of(device: torch.device, command: str) -> dict[str, str]:
    """The last columns of a row measured now."""
    card, torch_version, triton_version = versions(device)
    return {
        "triton": triton_version,
        "device": card,
        "torch": torch_version,
        "backend": "none",
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
    }


def is_judged(gpu: str) -> bool:
    """The goals are for one H100 or H200. Another card is measured, and held to nothing."""
    return any(name in gpu for name in ("H100", "H200"))


def say(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


def _measure_one(
    case: Case,
    place: Place,
    top: roof.Roof,
    provenance: Mapping[str, str],
    outcome: Outcome,
    without: Sequence[str] = (),
) -> list[Row] | None:
    """The rows of one case; None where it was left out."""
    checked = _checked(case, place, outcome, keep_wrong=False, without=without)
    if checked is None:
        return None
    try:
        times = _timed(checked, place.device)
    except torch.OutOfMemoryError:
        outcome.leave_out(case.label, "not enough memory to time it")
        return None
    finally:
        outcome.wrong += [f"{case.label} {one}" for one in checked.wrong]
    problem = checked.problem
    return [
        make_row(
            case.kernel,
            case.name,
            name if captured else f"{name}, no graph",
            stats,
            top,
            moved_bytes=problem.rival_bytes.get(name, problem.moved_bytes),
            flops=problem.flops,
            max_error=checked.errors[name],
            provenance=provenance,
        )
        for name, (stats, captured) in times.items()
    ]


def make_row(
    kernel: str,
    case: str,
    implementation: str,
    stats: Stats,
    top: roof.Roof,
    *,
    moved_bytes: int,
    flops: int,
    max_error: float,
    provenance: Mapping[str, str],
) -> Row:
    """A row of the CSV: the times of one implementation, and what fraction of the roofs they are."""
    return Row(
        kernel=kernel,
        case=case,
        implementation=implementation,
        seconds=stats.median_s,
        p10_s=stats.p10_s,
        p90_s=stats.p90_s,
        moved_bytes=moved_bytes,
        flops=flops,
        copy_Bps=top.copy_Bps,
        gemm_flops_per_s=top.gemm_flops_per_s,
        of_copy=top.of_copy(moved_bytes, stats.median_s),
        of_gemm=top.of_gemm(flops, stats.median_s),
        max_error=max_error,
        **provenance,
    )


def _checked(
    case: Case, place: Place, outcome: Outcome, *, keep_wrong: bool = True, without: Sequence[str] = ()
) -> Checked | None:
    """A case's implementations against its reference; what is wrong or missing goes into `outcome`."""
    try:
        checked = check(case, place, without)
    except torch.OutOfMemoryError:
        _forget()
        outcome.leave_out(case.label, "not enough memory")
        return None
    for rival, why in checked.absent:
        outcome.absent.setdefault((rival, why), []).append(case.label)
    if keep_wrong:
        outcome.wrong += [f"{case.label} {one}" for one in checked.wrong]
    return checked


def _timed(checked: Checked, device: torch.device) -> Times:
    """The right implementations, prepared over rotating inputs, timed in turns, and checked once more."""
    l2_bytes = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 64 << 20)
    inputs = [checked.problem.draw(number) for number in range(num_copies(checked.problem.moved_bytes, l2_bytes))]
    runs: dict[str, Prepared] = {name: prepare(call, inputs) for name, call in checked.calls.items()}
    if not runs:
        return {}
    stats = interleave(runs)
    good = {
        name: one.first is None or checked.problem.in_place or checked.judge(name, one.first, " in a graph")
        for name, one in runs.items()
    }
    return {name: (stats[name], runs[name].captured) for name in runs if good[name]}


_ROOFS: Mapping[str, tuple[str, Callable[[roof.Roof], Stats], int, int]] = {
    "device_copy": ("torch copy_", lambda one: one.copy, 2 * roof.COPIED_BYTES, 0),
    "gemm_8192": ("cuBLAS", lambda one: one.gemm, 3 * 2 * roof.GEMM_SIZE**2, roof.GEMM_FLOPS),
}
_WHENS = ("start", "end")


def _roof_rows(found: roof.Roof, top: roof.Roof, when: str, provenance: Mapping[str, str]) -> list[Row]:
    """The roofs as rows of their own. Their fractions are of the roofs at the start: at the end they say the drift."""
    return [
        make_row(
            kernel,
            when,
            name,
            pick(found),
            top,
            moved_bytes=moved_bytes,
            flops=flops,
            max_error=0.0,
            provenance=provenance,
        )
        for kernel, (name, pick, moved_bytes, flops) in _ROOFS.items()
    ]


def _brief(rows: Sequence[Row] | None) -> str:
    return ", ".join(f"{row.implementation} {duration(row.seconds)}" for row in rows or []) or "nothing was timed"


def _forget() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _clock(device: torch.device) -> str:
    """', 1980 MHz', or '' where nothing can read the clock (it takes the package pynvml)."""
    try:
        return f", {torch.cuda.clock_rate(device)} MHz"
    except Exception:  # no pynvml, or a driver that does not say
        return ""
