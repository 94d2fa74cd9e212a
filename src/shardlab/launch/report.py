"""Turns what is known after a failed run into one message: the cause first, then who waits where, then the stacks."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

from shardlab.comm import flight, posted, recorder, table
from shardlab.comm.table import CollectiveMismatch, Row, Waiting
from shardlab.launch import boot, carried, server
from shardlab.launch.boot import STACK_SIGNAL, stack_file
from shardlab.launch.errors import Failure, RankDied, RankError, RanksError, RankTimeout

# Frames that tell a reader nothing.
_PLUMBING = tuple(module.__file__ for module in (flight, posted, recorder, table, carried, contextlib))
_STACK_S = 0.4  # how long a rank may take to answer with its stack


def in_order(failures: Iterable[Failure]) -> list[Failure]:
    """The cause first: the earliest failure, echoes (a lost connection to a rank that failed) after all others."""
    return sorted(failures, key=lambda failure: (failure.is_echo, failure.time))


def _short(failure: Failure) -> str:
    line = str(failure).partition("\n")[0]
    return line if len(line) <= 160 else line[:157] + "..."


def failed(failures: Iterable[Failure], details: dict[int, Any], rows: Sequence[Row]) -> RanksError:
    """The error of a run in which a rank raised or died."""
    first, *others = in_order(failures)
    lines = [str(first)]
    echoes = [f.rank for f in others if f.is_echo]
    same = [f.rank for f in others if f.kind == first.kind == CollectiveMismatch.__name__]
    other = [f for f in others if f.rank not in (*echoes, *same)]
    if other:
        lines.append("also failed: " + "; ".join(_short(f) for f in other))
    if same:
        lines.append(f"{_ranks(same)} stopped there too")
    if echoes:
        lines.append(f"{_ranks(echoes)} lost the connection to it")
    if first.kind != "left":
        lines += _waiting(rows, except_ranks={first.rank, *(f.rank for f in others)})
    if first.rank in details:
        lines += [
            "",
            f"Traceback of rank {first.rank} (most recent call last):",
            _traceback(details[first.rank]),
        ]
    kind = RankDied if first.kind == "died" else RankError
    return kind("\n".join(lines), [first, *others])


def timed_out(
    missing: Sequence[int], pids: dict[int, int], rows: Sequence[Row], timeout_s: float, folder: str
) -> RanksError:
    """The error of a run that `missing` ranks have not finished in time: who did not come, and where everyone is."""
    stacks = _stacks(missing, pids, folder)
    culprits = absent(rows, missing)
    lines = [f"{_ranks(missing)} had not finished after {timeout_s:g} s"]
    for waiting, come, gone in culprits:
        lines.append(f"{_ranks(gone)} did not enter {waiting}, which {_ranks(come)} wait{'s' * (len(come) == 1)} in")
    if not culprits:
        lines += _waiting(rows, except_ranks=set())
    for rank in missing:
        lines += ["", f"rank {rank}: {_where(rows, rank)}", stacks[rank]]
    blamed = [rank for _, _, gone in culprits for rank in gone] or [r for r in missing if "stopped" in stacks[r]]
    order = list(dict.fromkeys([*blamed, *missing]))
    now = time.monotonic()
    return RankTimeout("\n".join(lines), [Failure(r, now, "late", _where(rows, r)) for r in order])


def left_early(rows: Sequence[Row], finished: set[int]) -> Failure | None:
    """A rank whose program has returned, and that others still wait for: it will never come."""
    for waiting, come, gone in absent(rows, [row.rank for row in rows]):
        for rank in gone:
            if rank in finished and not finished.issuperset(come):
                message = f"left before {waiting}, which {_ranks(come)} wait{'s' * (len(come) == 1)} in"
                return Failure(rank, time.monotonic(), "left", message)
    return None


def absent(rows: Sequence[Row], waiters: Iterable[int]) -> list[tuple[Waiting, list[int], list[int]]]:
    """For each collective that a rank waits in: (it, the ranks that are in it, the ranks that have not come)."""
    found: dict[tuple[str, tuple[int, ...], int], tuple[Waiting, list[int], list[int]]] = {}
    for rank in waiters:
        waiting = rows[rank].waits_in
        if waiting is None or waiting.op in recorder.POINT_TO_POINT:
            continue
        gone = [r for r in waiting.ranks if _number(rows[r], waiting) < waiting.number]
        if gone:
            key = (waiting.axis, waiting.ranks, waiting.number)
            found.setdefault(key, (waiting, [], gone))[1].append(rank)
    return list(found.values())


def _number(row: Row, waiting: Waiting) -> int:
    lane = row.on(waiting.axis, waiting.ranks)
    return lane.number if lane else 0


def stragglers(rows: Sequence[Row], seconds: float) -> list[str]:
    """A line for each rank that the others spent a large part of the run waiting for."""
    return [
        f"rank {row.rank} is slow: the others waited {row.late_s:.1f} s of {seconds:.1f} s for it"
        for row in rows
        if row.late_s > max(1.0, 0.3 * seconds)
    ]


def _waiting(rows: Sequence[Row], except_ranks: set[int]) -> list[str]:
    groups: dict[str, list[int]] = {}
    for row in rows:
        if row.waits_in is not None and row.rank not in except_ranks:
            groups.setdefault(str(row.waits_in), []).append(row.rank)
    return [f"{_ranks(ranks)} waited in {where}" for where, ranks in groups.items()]


def _where(rows: Sequence[Row], rank: int) -> str:
    row = rows[rank]
    if (waiting := row.waits_in) is not None:
        where = f"waits in {waiting} ({waiting.text})"
    else:
        last = max(row.lanes, key=lambda lane: lane.entered, default=None)
        where = f"in no collective; the last was {last}" if last else "has entered no collective"
    open_ones = ", ".join(map(str, row.posted))
    return f"{where}; posted and not waited for: {open_ones}" if open_ones else where


def _stacks(ranks: Sequence[int], pids: dict[int, int], folder: str) -> dict[int, str]:
    """Each rank's stack, or why there is none. faulthandler answers in C, whatever the rank is doing."""
    stacks = {}
    for rank in ranks:
        if process_state(pids[rank]) in ("T", "t"):
            stacks[rank] = "stopped (SIGSTOP) - cannot answer"
        else:
            try:
                os.kill(pids[rank], STACK_SIGNAL)
            except ProcessLookupError:
                stacks[rank] = "gone"
    end = time.monotonic() + _STACK_S
    while len(stacks) < len(ranks) and time.monotonic() < end:
        time.sleep(0.02)
        for rank in ranks:
            if rank not in stacks and (text := _read(stack_file(folder, rank))).endswith("\n"):
                time.sleep(0.01)  # it writes line by line: let it finish
                stacks[rank] = _trim(_read(stack_file(folder, rank)) or text)
    return {rank: stacks.get(rank, "did not answer with its stack") for rank in ranks}


def _trim(stack: str) -> str:
    """Without the frames that start a rank: the server's, and the boot's."""
    own = (server.__file__, boot.__file__, *_PLUMBING, "<string>")
    return "\n".join(line for line in stack.rstrip().splitlines() if not any(f'"{name}"' in line for name in own))


def process_state(pid: int) -> str:
    """The state letter of a process (R, S, D, T, Z), or "" when there is none."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].strip()[:1]


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _traceback(chain: list[tuple[str, str, list[tuple[str, int, str, str]]]]) -> str:
    """The chain as Python would print it; the sources of a notebook's cells are known only here."""
    parts = []
    for kind, message, frames in chain:
        shown = [f for f in frames if f[0] not in _PLUMBING] or frames
        summary = traceback.StackSummary.from_list(
            [traceback.FrameSummary(file, line, name, line=text or None) for file, line, name, text in shown]
        )
        parts.append("".join(summary.format()) + f"{kind}: {message}".rstrip(": "))
    return "\n\nThe above exception led to this one:\n\n".join(parts)


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return "ranks " + ", ".join(str(r) for r in ranks[:-1]) + f" and {ranks[-1]}"
