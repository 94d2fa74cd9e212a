"""The flight table by itself: rows in shared memory, checked by threads and processes that write while others read."""

from __future__ import annotations

import os
import random
import struct
import threading
import time
from pathlib import Path

import pytest

from shardlab.comm.flight import Flight
from shardlab.comm.table import RECORD, SLOTS, CollectiveMismatch, Table
from shardlab.launch import report

PAIR = (0, 1)


def tables(tmp_path: Path, world_size: int) -> list[Flight]:
    table = [Flight(str(tmp_path / "flight"), world_size, rank) for rank in range(world_size)]
    for one in table:
        one.begin(1)
    return table


def test_what_the_parent_reads(tmp_path: Path) -> None:
    zero, one, two = tables(tmp_path, 3)
    for flight in (zero, one):
        flight.leave(flight.enter("tp", PAIR, "all_reduce (2, 3) float32", False))
    zero.enter("tp", PAIR, "all_gather (4,) int64", False)
    rows = Table(str(tmp_path / "flight"), 3).rows()
    waiting = rows[0].waits_in
    assert waiting is not None and str(waiting) == "all_gather #2 on tp" and waiting.ranks == PAIR
    assert rows[1].waits_in is None and rows[2].lanes == ()
    assert [(str(w), come, gone) for w, come, gone in report.absent(rows, range(3))] == [
        ("all_gather #2 on tp", [0], [1])
    ]
    assert two.rows() == rows


def test_sends_are_not_counted_with_the_collectives(tmp_path: Path) -> None:
    zero, one = tables(tmp_path, 2)
    zero.leave(zero.enter("pp", PAIR, "send (2,) float32", False))
    one.enter("pp", PAIR, "all_reduce (2,) float32", False)
    zero.leave(zero.enter("pp", PAIR, "all_reduce (2,) float32", True))  # the same number, 1, on both: it returns


def test_a_collective_inside_another_leaves_nothing_behind(tmp_path: Path) -> None:
    zero, _ = tables(tmp_path, 2)
    outer = zero.enter("tp", PAIR, "all_reduce (2,) float32", False)
    inner = zero.enter("tp", PAIR, "broadcast (3,) int64", False)
    row = zero.rows()[0]
    assert [str(one) for one in row.open] == ["all_reduce #1 on tp", "broadcast #2 on tp"]
    assert str(row.waits_in) == "broadcast #2 on tp"
    zero.leave(inner)
    assert str(zero.rows()[0].waits_in) == "all_reduce #1 on tp"
    zero.leave(outer)
    assert zero.rows()[0].waits_in is None and zero.rows()[0].open == ()


def test_every_posted_transfer_is_shown_until_it_is_waited_for(tmp_path: Path) -> None:
    zero, one = tables(tmp_path, 2)
    sums = [zero.enter("tp", PAIR, f"all_reduce ({n},) float32", True, posted=True) for n in range(3)]
    sent = zero.enter("pp", PAIR, "send (2,) float32 to 1", False, posted=True)
    row = zero.rows()[0]
    assert [str(w) for w in row.posted] == [*(f"all_reduce #{n} on tp" for n in (1, 2, 3)), "send #1 on pp (p2p)"]
    assert row.waits_in is None and row.waited_s == 0.0
    for n in range(3):
        one.enter("tp", PAIR, f"all_reduce ({n},) float32", True, posted=True)
    zero.wait(sums[2], True)  # the last first
    assert str(zero.rows()[0].waits_in) == "all_reduce #3 on tp"
    zero.leave(sums[2])
    zero.leave(zero.enter("tp", PAIR, "barrier ", False))  # a blocking one in between
    row = zero.rows()[0]
    assert [str(w) for w in row.open] == ["all_reduce #1 on tp", "all_reduce #2 on tp", "send #1 on pp (p2p)"]
    assert row.waits_in is None
    for entry in (sums[0], sent, sums[1]):
        zero.wait(entry, False)
        zero.leave(entry)
    assert zero.rows()[0].open == () and zero.rows()[0].waits_in is None


def test_who_posts_last_of_two_that_differ_finds_out(tmp_path: Path) -> None:
    zero, one = tables(tmp_path, 2)
    posted = zero.enter("tp", PAIR, "all_reduce (2,) float32", True, posted=True)  # nobody is there: it goes on
    with pytest.raises(CollectiveMismatch, match=r"all_reduce #1 on tp: rank 0 has \(2,\)"):
        one.enter("tp", PAIR, "all_reduce (3,) float32", True, posted=True)
    with pytest.raises(CollectiveMismatch, match=r"rank 1 has \(3,\)"):
        zero.wait(posted, True)


def test_a_peer_that_has_posted_far_ahead_is_not_waited_for(tmp_path: Path) -> None:
    zero, one = tables(tmp_path, 2)
    posted = zero.enter("tp", PAIR, "all_reduce (1,) float32", True, posted=True)
    entries = [one.enter("tp", PAIR, "all_reduce (1,) float32", False, posted=True) for _ in range(2 * SLOTS)]
    zero.wait(posted, True)  # its record is overwritten by now
    zero.leave(posted)
    assert len(zero.rows()[1].open) == SLOTS, "the latest are shown"
    for entry in entries:
        one.wait(entry, False)
        one.leave(entry)
    assert zero.rows()[1].open == ()


@pytest.mark.parametrize(
    ("mine", "theirs", "says"),
    [
        (
            "all_reduce (2,) float32",
            "all_reduce (3,) float32",
            r"all_reduce #1 on tp: rank 0 has \(2,\) .* rank 1 has \(3,\)",
        ),
        (
            "all_reduce (2,) float32",
            "barrier ",
            r"#1 on tp: rank 0 calls all_reduce \(2,\) float32, rank 1 calls barrier",
        ),
        ("all_to_all " + "9, " * 300, "all_to_all " + "9, " * 299 + "8, ", r"all_to_all #1 on tp"),
    ],
)
def test_a_mismatch_raises_on_both_ranks(tmp_path: Path, mine: str, theirs: str, says: str) -> None:
    zero, one = tables(tmp_path, 2)
    caught: list[BaseException] = []

    def enter(flight: Flight, text: str) -> None:
        try:
            flight.enter("tp", PAIR, text, True)
        except CollectiveMismatch as error:
            caught.append(error)

    other = threading.Thread(target=enter, args=(one, theirs))
    other.start()
    enter(zero, mine)
    other.join(5)
    assert len(caught) == 2
    with pytest.raises(CollectiveMismatch, match=says):
        raise caught[0]


def test_an_earlier_run_is_never_compared(tmp_path: Path) -> None:
    """Rank 1 has not begun run 2 yet: its row still shows collective 1 of run 1, which is another thing."""
    zero, one = tables(tmp_path, 2)
    one.leave(one.enter("tp", PAIR, "all_reduce (99,) float32", False))
    zero.begin(2)

    def late() -> None:
        time.sleep(0.2)
        one.begin(2)
        one.enter("tp", PAIR, "barrier", False)

    other = threading.Thread(target=late)
    other.start()
    started = time.monotonic()
    zero.enter("tp", PAIR, "barrier", True)
    assert time.monotonic() - started > 0.1
    other.join()


def test_the_slow_one_is_measured(tmp_path: Path) -> None:
    zero, one = tables(tmp_path, 2)
    for flight in (zero, one):  # the first says nothing: until then ranks import and load
        flight.leave(flight.enter("tp", PAIR, "barrier", False))
        time.sleep(0.1)
    other = threading.Thread(target=lambda: one.leave(one.enter("tp", PAIR, "barrier", True)))
    other.start()
    while zero.rows()[1].waits_in is None:  # it is there, and waits
        time.sleep(0.01)
    time.sleep(0.3)
    zero.leave(zero.enter("tp", PAIR, "barrier", True))
    other.join()
    rows = zero.rows()
    assert rows[0].late_s > 0.25 and rows[1].late_s == 0.0
    assert rows[1].waited_s > 0.25


def test_a_half_written_record_is_not_there_yet(tmp_path: Path) -> None:
    """Whatever bytes of the record are still the old ones, a reader does not take it for whole."""
    zero, one = tables(tmp_path, 2)
    for text in ("a" * 200, "b" * 100, "c" * 200, "d" * 100) * (SLOTS // 4):
        zero.leave(zero.enter("tp", PAIR, f"{text} x", False))
    lane = zero._lanes["tp", PAIR]
    number = SLOTS + 1  # in the slot of number 1
    old_slot = zero._slot(lane.offset, number)
    old = bytes(zero._table[old_slot : old_slot + 256])
    zero.enter("tp", PAIR, "all_reduce " + "7" * 150, False)
    new = bytes(zero._table[old_slot : old_slot + 256])
    whole = one._record(lane.offset, number)
    assert whole is not None and whole[3].startswith(b"all_reduce 7")
    differing = [i for i in range(256) if old[i] != new[i]]
    rng = random.Random(0)
    for _ in range(500):
        torn = bytearray(new)
        for i in rng.sample(differing, rng.randint(1, len(differing))):
            torn[i] = old[i]
        zero._table[old_slot : old_slot + 256] = bytes(torn)
        record = one._record(lane.offset, number)
        assert record is None or record == whole, "either not there, or right"
    assert struct.calcsize("<IIQQdH") == RECORD.size


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_that_agree_never_raise(tmp_path: Path, world_size: int) -> None:
    """Some thousand checked collectives of changing text, in processes that run as fast as they can."""
    path, everyone = str(tmp_path / "flight"), tuple(range(world_size))
    children = []
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                flight = Flight(path, world_size, rank)
                flight.begin(1)
                rng = random.Random(1)
                for i in range(1500):
                    flight.leave(flight.enter("tp", everyone, f"all_reduce ({i}, {'8, ' * rng.randint(0, 60)})", True))
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * world_size


def test_a_full_disk_is_an_error_and_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Flight(str(tmp_path / "flight"), 2, 0)
