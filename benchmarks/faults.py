"""How fast a run fails when a rank does, and how often one of 200 starts does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks import Row
from shardlab import Ranks, comm
from shardlab.comm.mesh import Mesh
from shardlab.launch import RankDied, RankError, RanksError, RankTimeout
from shardlab.measure.timer import Stats

NUM_RANKS = 4
LIMIT_S = 4.0  # the matrix' T
_ROUNDS = 5
_LAUNCHES = 200


def program(mesh: Mesh, fault: Callable[[], None] | None, early: bool = False) -> None:
    """Three all_reduces; before the second, rank 1 does `fault`; or it returns `early`, before the third."""
    for step in range(3):
        if mesh.rank == 1 and step == 1 and fault is not None:
            fault()
        if mesh.rank == 1 and step == 2 and early:
            return
        comm.all_reduce(torch.ones(4), mesh["tp"])


def raise_here() -> None:
    raise ValueError("boom")


def both_raise(mesh: Mesh) -> None:
    if mesh.rank in (1, 2):
        time.sleep(0.05 * (2 - mesh.rank))
        raise ValueError(f"rank {mesh.rank}")
    comm.all_reduce(torch.ones(4), mesh["tp"])


def stop_here() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def kill_here() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# what happens, the program, the error, seconds that it may take, what the message must hold
_FAULTS: list[tuple[str, Callable[[Mesh], None], type[RanksError], float, str]] = [
    (
        "a rank exits",
        partial(program, fault=partial(os._exit, 13)),
        RankDied,
        3,
        "rank 1 exited with code 13",
    ),
    (
        "a rank is killed",
        partial(program, fault=kill_here),
        RankDied,
        3,
        "rank 1 was killed by SIGKILL",
    ),
    ("a rank raises", partial(program, fault=raise_here), RankError, 3, "rank 1: ValueError: boom"),
    ("two ranks raise", both_raise, RankError, 3, "rank 2: ValueError"),
    (
        "a rank sleeps",
        partial(program, fault=partial(time.sleep, 1e3)),
        RankTimeout,
        LIMIT_S + 1,
        "rank 1 did not enter",
    ),
    (
        "a rank is stopped",
        partial(program, fault=stop_here),
        RankTimeout,
        LIMIT_S + 1,
        "rank 1 did not enter",
    ),
    (
        "a rank returns early",
        partial(program, fault=None, early=True),
        RankError,
        3,
        "rank 1 left before",
    ),
]


def rows() -> list[Row]:
    return [*(_fault(*fault) for fault in _FAULTS), _launches()]


def _fault(what: str, program: Callable[[Mesh], None], kind: type[RanksError], at_most_s: float, says: str) -> Row:
    seconds, right = [], True
    with Ranks(NUM_RANKS, "gloo", timeout_s=LIMIT_S) as ranks:
        for _ in range(_ROUNDS):
            pids = ranks.start().pids
            started = time.perf_counter()
            try:
                ranks.run(program)
                right = False
            except kind as error:
                right = right and says in str(error)
            seconds.append(time.perf_counter() - started)
            right = right and not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    good = right and max(seconds) <= at_most_s
    measured = f"{Stats(tuple(seconds)).median_s:.2f} s, at most {max(seconds):.2f}" + (
        "" if right else "; wrong error"
    )
    limit = f", T = {LIMIT_S:g} s" if at_most_s > 3 else ""
    return Row("F1", f"{what}: time to the error{limit}, none left", measured, f"<= {at_most_s:g} s", good)


def _launches() -> Row:
    """Start, one all_reduce, close. A failure is an exception, or a rank that does not exit with 0."""
    failures, seconds = 0, []
    for _ in range(_LAUNCHES):
        ranks = Ranks(NUM_RANKS, "gloo")
        started = time.perf_counter()
        try:
            ranks.start()
            seconds.append(time.perf_counter() - started)
            ranks.run(partial(program, fault=None))
            ranks.close()
            failures += ranks.exit_codes != dict.fromkeys(range(NUM_RANKS), 0)
        except RuntimeError:
            failures += 1
            ranks.close()
    slowest, middle = max(seconds, default=0.0), Stats(tuple(seconds)).median_s
    measured = f"{failures} failures; start {middle * 1e3:.0f} ms, the slowest {slowest * 1e3:.0f}"
    return Row("F32", f"{_LAUNCHES} launches of {NUM_RANKS} ranks", measured, "0", failures == 0)
