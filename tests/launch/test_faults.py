"""Rows F1-F9 and F30 of the fault matrix: that a run fails, and what it says. T is 4 s, for F5 and F6.

Each row ends like every other: nothing is left (the fixture looks), and the same pool runs again. The pool's own
time-out is far beyond the matrix' limits, so an error of the right kind came by itself; how soon is benchmarks.faults'.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shardlab import Plan, Ranks
from shardlab.comm.table import Row
from shardlab.launch import RankDied, RankError, RanksError, RankTimeout, gather, report
from tests.launch import leftovers, programs
from tests.launch.conftest import TIMEOUT_S


@contextmanager
def fails(ranks: Ranks, kind: type[RanksError], first_line: str) -> Iterator[list[str]]:
    """The block raises `kind`, with a message that starts like `first_line`; then all is well."""
    for plan in (Plan(tp=4), Plan(dp=2, tp=2)):
        ranks.run(programs.total, plan=plan)  # warm, and the groups are made
    message: list[str] = []
    with pytest.raises(kind) as caught:
        yield message
    message.append(str(caught.value))
    assert re.match(first_line, message[0]), message[0]
    assert type(caught.value) is kind
    assert "closed by peer" not in message[0] and "GLHF" not in message[0]
    assert caught.value.failures and caught.value.rank in range(4)
    assert ranks.pids == [], "no rank may outlive an error"
    assert ranks.run(programs.total) == [4.0] * 4


@pytest.mark.parametrize("check", [True, False])
def test_f1_a_rank_exits(ranks: Ranks, check: bool) -> None:
    with fails(ranks, RankDied, r"rank 1 exited with code 13\n") as message:
        ranks.run(programs.exits, 13, check=check)
    others = "waited in all_reduce #2 on tp" if check else "waited in all_reduce #2 on tp|lost the connection to it"
    assert re.search(others, message[0])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
@pytest.mark.parametrize("check", [True, False])
def test_f2_a_rank_is_killed(ranks: Ranks, number: signal.Signals, check: bool) -> None:
    with fails(ranks, RankDied, rf"rank 1 was killed by {number.name}"):
        ranks.run(programs.dies, int(number), check=check)


@pytest.mark.parametrize("check", [True, False])
def test_f3_a_rank_raises_and_the_others_wait(ranks: Ranks, check: bool) -> None:
    with fails(ranks, RankError, r"rank 1: ValueError: boom\n") as message:
        ranks.run(programs.raises, check=check)
    assert re.search(r"ranks 0, 2 and 3 waited in all_reduce #2 on tp", message[0])
    assert re.search(r'programs.py", line \d+, in raises\n +raise ValueError\("boom"\)', message[0])


@pytest.mark.parametrize("check", [True, False])
def test_f4_two_ranks_raise_and_the_earlier_comes_first(
    ranks: Ranks, check: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "_GRACE_S", 60.0)  # all four answer: nobody waits so long
    with fails(ranks, RankError, r"rank 2: ValueError: the first\n") as message:
        ranks.run(programs.two_raise, str(tmp_path / "mark"), check=check)
    assert re.search(r"also failed: rank 1: KeyError: 'the second'", message[0])


@pytest.mark.parametrize("check", [True, False])
def test_f5_a_rank_sleeps_for_ever(ranks: Ranks, check: bool) -> None:
    with fails(ranks, RankTimeout, r"ranks 0, 1, 2 and 3 had not finished after 4 s\n") as message:
        ranks.run(programs.sleeps, check=check, timeout_s=TIMEOUT_S)
    assert re.search(r"rank 1 did not enter all_reduce #2 on tp, which ranks 0, 2 and 3 wait in", message[0])
    assert re.search(r"rank 1: in no collective; the last was all_reduce #1 on tp\n.*\n.* in sleeps", message[0])
    assert re.search(r"rank 3: waits in all_reduce #2 on tp \(all_reduce \(3,\) float32\)\n.*\n", message[0])
    assert "server.py" not in message[0] and "flight.py" not in message[0], "frames that are ours tell nothing"


def test_f6_a_rank_is_stopped(ranks: Ranks) -> None:
    with fails(ranks, RankTimeout, r"ranks 0, 1, 2 and 3 had not finished") as message:
        ranks.run(programs.stops, timeout_s=TIMEOUT_S)
    assert re.search(r"rank 1 did not enter all_reduce #2 on tp, which ranks 0, 2 and 3 wait in", message[0])
    assert re.search(r"rank 1: .*\nstopped \(SIGSTOP\) - cannot answer", message[0])


@pytest.mark.parametrize("check", [True, False])
def test_f7_a_rank_returns_early(ranks: Ranks, check: bool) -> None:
    line = r"rank 1 left before all_reduce #3 on tp, which ranks 0, 2 and 3 wait in"
    with fails(ranks, RankError, line):
        ranks.run(programs.leaves, check=check)


def test_f8_shapes_differ(ranks: Ranks) -> None:
    line = r"rank \d: CollectiveMismatch: all_reduce #1 on tp: rank \d has \((1024|2048),\) float32, rank \d has"
    with fails(ranks, RankError, line) as message:
        ranks.run(programs.shapes_differ)
    assert re.search(r"rank 1 has \(2048,\) float32", message[0])
    assert re.search(r"rank [023] has \(1024,\) float32", message[0])


def test_f9_dtypes_differ(ranks: Ranks) -> None:
    with fails(ranks, RankError, r"rank \d: CollectiveMismatch: all_reduce #1 on tp") as message:
        ranks.run(programs.dtypes_differ)
    assert re.search(r"rank 1 has \(8,\) bfloat16", message[0])
    assert re.search(r"rank [023] has \(8,\) float32", message[0])


def test_f9_the_order_of_operations_differs(ranks: Ranks) -> None:
    with fails(ranks, RankError, r"rank \d: CollectiveMismatch: collective #2 on tp") as message:
        ranks.run(programs.ops_differ)
    assert re.search(r"rank 1 calls broadcast \(8,\) float32", message[0])
    assert re.search(r"rank [023] calls all_reduce \(8,\) float32", message[0])


def test_f30_a_slow_rank_is_named_and_the_run_succeeds(ranks: Ranks, capsys: pytest.CaptureFixture[str]) -> None:
    assert ranks.run(programs.works, 0.06, 2, 10.0) == [4.0] * 4
    assert re.search(r"rank 2 is slow: the others waited \d\.\d s of \d\.\d s for it", capsys.readouterr().out)
    assert max(range(4), key=lambda rank: ranks.late_s[rank]) == 2


def test_who_is_slow() -> None:
    """A second, and a third of the run, that the others waited for one rank alone."""

    def line(late_s: float, seconds: float) -> list[str]:
        return report.stragglers([Row(0, 1, 9.0, 0.0, ()), Row(1, 1, 0.0, late_s, ())], seconds)

    assert line(0.9, 1.0) == line(2.9, 10.0) == line(0.0, 5.0) == []
    assert line(1.1, 2.0) == ["rank 1 is slow: the others waited 1.1 s of 2.0 s for it"]


def test_a_rank_that_died_between_two_runs_is_replaced(ranks: Ranks) -> None:
    ranks.start()
    pid = ranks.pids[3]
    os.kill(pid, signal.SIGKILL)
    # Until it is reaped: a zombie's other threads may still hold its sockets open.
    leftovers.wait_until(lambda: report.process_state(pid) == "", "the rank's end")
    assert ranks.run(programs.total) == [4.0] * 4


def test_what_a_rank_started_goes_with_it(ranks: Ranks) -> None:
    with fails(ranks, RankError, "rank 1: ValueError: with a child"):
        ranks.run(programs.starts_a_process)


def test_a_fault_on_a_part_of_the_pool(ranks: Ranks) -> None:
    """On dp=2 x tp=2 the message names the ranks of the right axis: 2 and 3 have nothing to do with it."""
    with fails(ranks, RankError, r"rank 1 left before all_reduce #3 on tp, which rank 0 waits in"):
        ranks.run(programs.leaves, plan=Plan(dp=2, tp=2))


@pytest.mark.parametrize("program", [programs.total, lambda mesh: mesh.world_size])
def test_a_plan_smaller_than_the_pool(ranks: Ranks, program: Callable[..., Any]) -> None:
    assert ranks.run(program, plan=Plan(tp=3)) == [3.0] * 3
    assert len(ranks.transfers) == 3
