"""sweep: every implementation appears, its bytes are the formula's, and what was measured outlives an interrupt."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from shardlab import Ranks
from shardlab.algorithms import IMPLEMENTATIONS, Implementation
from shardlab.launch import wire
from shardlab.measure import machine, point, record
from shardlab.measure.point import Point
from shardlab.sweep.driver import cells_of, runnable, sweep
from shardlab.theory import collectives

READABLE, WHY = wire.available()
MIB = 1 << 20


@pytest.fixture(scope="module")
def points(ranks: Ranks) -> list[Point]:
    """Everything, small and at 3 MiB, where each of three ranks sends 1 MiB pieces; one round."""
    return sweep(ranks, sizes=(1 << 10, 3 * MIB), degrees=(2, 3), rounds=1)


def test_every_implementation_at_every_size_on_every_number_of_ranks(points: list[Point]) -> None:
    found = Counter((*one.implementation, one.world_size, one.num_bytes) for one in points)
    sizes = {2: (1024, 3 * MIB), 3: (1020, 3 * MIB)}
    wanted = [
        (one.op, one.algorithm, one.transport, degree, size)
        for one in IMPLEMENTATIONS
        for degree in sizes
        for size in sizes[degree]
    ]
    assert found == Counter(wanted)
    assert {one.op for one in points} == set(collectives.ALGORITHMS)
    assert {one.transport for one in points} == {"backend", "send_recv", "shared_memory"}


@pytest.mark.skipif(not READABLE, reason=WHY)
def test_bytes_are_those_of_the_formula(points: list[Point]) -> None:
    large = [one for one in points if one.num_bytes >= MIB]
    assert len(large) == len(points) // 2
    for one in large:
        if one.transport == "shared_memory":
            assert one.counted == "in shared memory" and one.sent_bytes == one.formula_bytes, one
        else:
            assert one.counted == "on the wire", one
            assert one.sent_bytes == pytest.approx(one.formula_bytes, rel=0.01), one


@pytest.mark.skipif(not READABLE, reason=WHY)
def test_traffic_is_the_algorithms(points: list[Point]) -> None:
    for one in points:
        if one.num_bytes < MIB:
            continue
        expected = collectives.traffic_matrix(one.op, one.num_bytes, one.world_size, one.algorithm)
        for sender, row in enumerate(one.traffic):
            for receiver, sent in enumerate(row):
                if sender != receiver:
                    # framing: at most 1 % of the largest entry
                    assert abs(sent - expected[sender][receiver]) <= 0.01 * max(map(max, expected)), one
        if one.transport == "shared_memory":  # what a rank moved is what it put into its slot and what it read
            assert max(map(sum, zip(*one.traffic, strict=True))) == one.sent_bytes
            assert all(one.traffic[rank][rank] >= 0 for rank in range(one.world_size))
        else:
            assert max(map(sum, one.traffic)) == one.sent_bytes


def test_numbers_of_a_point_fit_together(points: list[Point]) -> None:
    for one in points:
        assert 0 < one.p10_s <= one.median_s <= one.p90_s
        assert one.algbw_Bps == pytest.approx(one.num_bytes / one.median_s)
        assert one.busbw_Bps == pytest.approx(one.algbw_Bps * collectives.busbw_factor(one.op, one.world_size))
        assert one.steps == collectives.steps(one.op, world_size=one.world_size, algorithm=one.algorithm)
        assert (one.rounds, one.backend) == (1, "gloo")


def test_the_csv_gives_the_points_back(points: list[Point], tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    here = machine.provenance("gloo", "shardlab sweep")
    assert point.write(path, points[:5], here) == 5
    point.check(path)
    assert point.write(path, points[5:], here) == len(points) - 5
    assert point.read(path) == points
    first = record.read(path)[0]
    assert (first["command"], first["backend"], first["device"]) == ("shardlab sweep", "gloo", here.device)
    other = replace(points[0], backend="nccl")
    point.write(path, [other], here)
    assert point.read(path)[-1] == other


@pytest.mark.parametrize("text", ["", "op,seconds\nsend,1\n", "op\n"])
def test_another_csv_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="not those of a sweep"):
        point.check(path)


def test_an_interrupt_keeps_what_was_measured(ranks: Ranks) -> None:
    chosen = [Implementation("all_reduce", "ring", "backend"), Implementation("send", "one_shot", "backend")]
    kept: list[Point] = []
    told: list[tuple[float, float]] = []

    def interrupt_when_some_rounds_are_done(done_s: float, all_s: float, what: str) -> None:
        told.append((done_s, all_s))
        if "timing" in what and done_s > 0.5 and not stopped.is_set():
            stopped.set()
            signal_main()

    stopped = threading.Event()

    def signal_main() -> None:
        import _thread

        _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        sweep(
            ranks,
            chosen,
            sizes=(1 << 10, 1 << 20),
            degrees=(2,),
            rounds=1000,  # a minute and more
            on_progress=interrupt_when_some_rounds_are_done,
            on_points=kept.extend,
        )
    assert {one.implementation for one in kept} == {("all_reduce", "ring", "backend"), ("send", "one_shot", "backend")}
    assert len(kept) == 4
    assert all(1 <= one.rounds < 1000 for one in kept)
    assert all(done <= whole for done, whole in told)
    assert threading.active_count() == 1 or not any(t.name == "shardlab-sweep" for t in threading.enumerate())
    assert ranks.run(alive, timeout_s=60) == [0, 1, 2, 3]  # the pool heals


def alive(mesh: object) -> int:
    return mesh.rank  # type: ignore[attr-defined]


def test_progress_ends_at_all_of_it(ranks: Ranks) -> None:
    told: list[tuple[float, float, str]] = []
    sweep(
        ranks,
        [Implementation("all_to_all", "one_shot", "backend")],
        sizes=(1 << 10,),
        degrees=(2, 3),
        rounds=1,
        on_progress=lambda *said: told.append(said),
    )
    assert told[-1][2] == "3 ranks: done" and told[-1][0] == pytest.approx(told[-1][1])
    done = [one[0] for one in told]
    assert done == sorted(done)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"degrees": (1,)}, "1 ranks: the pool allows 2..4"),
        ({"degrees": (5,)}, "5 ranks"),
        ({"degrees": ()}, "nothing to measure"),
        ({"sizes": ()}, "nothing to measure"),
        ({"sizes": (0,)}, "a size of 0 bytes"),
        ({"rounds": 0}, "rounds=0; allowed: 1..1000"),
        ({"rounds": 1001}, "rounds=1001"),
        (
            {"implementations": [Implementation("all_to_all", "ring", "backend")]},
            "all_to_all ring backend does not run",
        ),
        ({"implementations": []}, "nothing to measure"),
    ],
)
def test_what_cannot_be_measured_is_said_first(ranks: Ranks, change: dict, said: str) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match=said):
        sweep(ranks, **change)
    assert time.monotonic() - started < 30


def test_shared_memory_is_not_for_gpus_and_sizes_count_once() -> None:
    assert set(runnable("gloo")) - set(runnable("nccl")) == {
        one for one in IMPLEMENTATIONS if one.transport == "shared_memory"
    }
    one = IMPLEMENTATIONS[0]
    assert [cell.num_bytes for cell in cells_of([one], (1, 12, 13, 24), 3)] == [12, 24]
