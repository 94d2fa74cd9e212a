"""The segment itself: waits for everybody, grows, is named in a time-out, and leaves nothing behind."""

from __future__ import annotations

import ast
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shardlab import Plan, Ranks, algorithms
from shardlab.algorithms import SharedMemory, memfd, over_shared_memory
from shardlab.comm.mesh import Axis, Mesh
from shardlab.launch import RankDied, RankError, RankTimeout

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")


@pytest.fixture(scope="module")
def pool() -> Iterator[Ranks]:
    """Ranks of its own, which these tests break."""
    with Ranks(4) as ranks:
        yield ranks


def many_calls(mesh: Mesh, seed: int, calls: int) -> int:
    """Operations in random order, each rank late at random; every call has values of its own. How many were wrong."""
    tp, same = mesh["tp"], random.Random(seed)
    late, wrong = random.Random(seed * 100 + mesh.rank), 0
    with SharedMemory(tp, 1 << 14) as shared:
        for number in range(calls):
            op, length = same.choice(OPS), tp.size * same.choice((1, 5, 300))
            algorithm = same.choice(("one_shot", "two_shot")) if op == "all_reduce" else "one_shot"
            if late.random() < 0.1:
                time.sleep(late.random() * 1e-3)
            mine = torch.full((length,), 10 * number + tp.rank)
            out = algorithms.run(op, mine, tp, algorithm=algorithm, transport="shared_memory", shared=shared)
            everyone = sum(10 * number + rank for rank in range(tp.size))
            if op in ("all_reduce", "reduce_scatter"):
                wrong += int((out != everyone).any())
            elif op == "broadcast":
                wrong += int((out != 10 * number).any())
            else:
                each = torch.arange(tp.size).add(10 * number).repeat_interleave(len(out) // tp.size)
                wrong += int(not torch.equal(out, each))
    return wrong


@pytest.mark.parametrize("tp", [2, 3, 4])
def test_no_call_reads_what_another_call_wrote(ranks: Ranks, tp: int) -> None:
    assert ranks.run(many_calls, tp, 1500, plan=Plan(tp=tp), check=False) == [0] * tp


def growing(mesh: Mesh) -> list[int]:
    with SharedMemory(mesh["tp"], 100) as shared:
        capacities = [shared.capacity_bytes]
        for length in (10, 2000, 3000, 1 << 18, 5):
            out = over_shared_memory.all_reduce_one_shot(torch.full((length,), 2.0), shared)
            assert torch.equal(out, torch.full((length,), 2.0 * mesh["tp"].size))
            capacities.append(shared.capacity_bytes)
    return capacities


def test_it_grows_when_a_larger_tensor_comes(ranks: Ranks) -> None:
    assert ranks.run(growing) == [[4096, 4096, 8192, 16384, 1 << 20, 1 << 20]] * 4


def both_axes(mesh: Mesh) -> list[float]:
    with SharedMemory(mesh["dp"]) as down, SharedMemory(mesh["tp"]) as across:
        first = over_shared_memory.all_reduce_one_shot(torch.tensor([2.0**mesh.rank]), down)
        return [first.item(), over_shared_memory.all_reduce_one_shot(first, across).item()]


def test_each_axis_has_its_own(ranks: Ranks) -> None:
    assert ranks.run(both_axes, plan=Plan(dp=2, tp=2)) == [[5, 15], [10, 15], [5, 15], [10, 15]]


def in_place(mesh: Mesh) -> bool:
    with SharedMemory(mesh["tp"]) as shared:
        mine = torch.arange(7.0)
        out = over_shared_memory.all_reduce_two_shot(mine, shared, out=mine)
        return out is mine and torch.equal(mine, 4 * torch.arange(7.0))


def test_two_shot_can_write_over_its_input(ranks: Ranks) -> None:
    assert ranks.run(in_place) == [True] * 4


# ------------------------------------------------------------------------------------------------- nothing is left


def segments(pid: int | str = "self") -> set[tuple[str, int, str]]:
    """(device, inode, path) of each shared memory of ours that a process maps."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:  # it is gone
        return set()
    fields = [line.split(maxsplit=5) for line in lines if "memfd:shardlab" in line]
    return {(device, int(inode), path) for _, _, _, device, inode, path in fields}


def mounted(device: str) -> list[str]:
    """Where the file system of this device (as /proc/PID/maps writes it) can be reached by a path."""
    wanted = ":".join(str(int(part, 16)) for part in device.split(":"))
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [fields[4] for fields in lines if fields[2] == wanted]


def hold(mesh: Mesh, how: str, folder: str) -> None:
    """Map a segment, say what it is, and then one rank does not come to a collective."""
    with SharedMemory(mesh["tp"], 1 << 16) as shared:
        over_shared_memory.all_reduce_one_shot(torch.ones(9), shared)
        Path(folder, f"rank{mesh.rank}").write_text(repr(segments()))
        if mesh.rank == 1:
            while len(os.listdir(folder)) < mesh.world_size:
                time.sleep(0.01)
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif how == "raised":
                raise KeyError("no such key")
            time.sleep(60)
        over_shared_memory.all_reduce_one_shot(torch.ones(9), shared)


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("killed", RankDied, r"ranks 0, 2 and 3 waited in all_reduce #\d+ on tp"),
        ("raised", RankError, "no such key"),
        ("hung", RankTimeout, r"rank 1 did not enter all_reduce #\d+ on tp, which ranks 0, 2 and 3 wait in"),
    ],
)
def test_whatever_happens_nothing_is_left(
    pool: Ranks, tmp_path: Path, how: str, error: type[Exception], says: str
) -> None:
    pids = pool.start().pids
    with pytest.raises(error, match=says):
        pool.run(hold, how, str(tmp_path), timeout_s=2 if how == "hung" else 30)
    held = [ast.literal_eval(path.read_text()) for path in sorted(tmp_path.iterdir())]
    assert len(held) == 4 and held[1:] == held[:1] * 3, "all ranks map one and the same"
    ((device, _, path),) = held[0]
    assert path == "/memfd:shardlab (deleted)" and mounted(device) == [], "it has no name while it is there"
    number = os.stat("/proc").st_dev
    assert mounted(f"{os.major(number):02x}:{os.minor(number):02x}") != [], "the search finds what is mounted"
    assert not any(segments(pid) for pid in pids), "and no process has it after"
    assert pool.run(growing)[0][0] == 4096  # the pool heals


def test_closed_is_unmapped(ranks: Ranks) -> None:
    def program(mesh: Mesh) -> tuple[int, int]:
        shared = SharedMemory(mesh["tp"])
        during = len(segments())
        shared.close()
        shared.close()
        return during, len(segments())

    assert ranks.run(program) == [(1, 0)] * 4


def test_use_after_close_is_an_error() -> None:
    shared = SharedMemory(Axis.single())
    shared.close()
    with pytest.raises(ValueError, match="shared memory of the tp axis is closed"):
        shared.begin(torch.float32, 1)


# ---------------------------------------------------------------------------------------------- what cannot work


def differing(mesh: Mesh) -> None:
    with SharedMemory(mesh["tp"]) as shared:
        over_shared_memory.all_reduce_one_shot(torch.ones(3 + mesh.rank), shared)


def test_ranks_that_differ_find_out(pool: Ranks) -> None:
    with pytest.raises(RankError, match=r"all_reduce #\d+ on tp: rank \d has \(\d,\) float32 in shared memory"):
        pool.run(differing, plan=Plan(tp=2))


def refused(mesh: Mesh, what: str) -> str:
    """What making a segment says on this rank when rank 2 is elsewhere, or rank 0 has no memory."""
    patch = pytest.MonkeyPatch()
    try:
        if what == "elsewhere" and mesh.rank == 2:
            patch.setattr(memfd, "_open", lambda *args: None)
        if what == "memory" and mesh.rank == 0:

            def full(fd: int, offset: int, size: int) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(os, "posix_fallocate", full)
        SharedMemory(mesh["tp"])
    except (OSError, RuntimeError) as error:
        return f"{error} {len(segments())}"
    finally:
        patch.undo()
    return "made"


def test_a_rank_on_another_host_is_named_by_all(ranks: Ranks) -> None:
    said = ranks.run(refused, "elsewhere")
    assert all(
        "ranks [2] cannot open that of rank 0; all ranks of the axis must run on one host" in one for one in said
    )
    assert all(one.endswith(" 0") for one in said), "nothing stays mapped"


def test_no_memory_is_an_error_on_every_rank(ranks: Ranks) -> None:
    first, *others = ranks.run(refused, "memory")
    assert "No space left on device" in first
    assert all("rank 0 could not make shared memory" in one for one in others)
    assert ranks.run(growing)[0][0] == 4096  # and the axis goes on


def test_a_stranger_is_not_opened(tmp_path: Path) -> None:
    """Another file under that number, another size, another token: not it. A stale number: not there."""
    stranger = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    memory = os.memfd_create("shardlab")
    try:
        os.truncate(memory, 4096)
        os.pwrite(memory, (7).to_bytes(8, "little"), 0)
        pid = os.getpid()
        assert memfd._open(pid, stranger, 0, 0) is None
        assert memfd._open(pid, memory, 8, 4096) is None
        assert memfd._open(pid, memory, 7, 8192) is None
        found = memfd._open(pid, memory, 7, 4096)
        assert found is not None
        found.close()
    finally:
        os.close(memory)
        os.close(stranger)
    assert memfd._open(os.getpid(), memory, 7, 4096) is None


def test_where_there_is_no_memfd_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memfd.available() == (True, "")
    monkeypatch.delattr(os, "memfd_create")
    assert not memfd.available()[0]
    with pytest.raises(RuntimeError, match="needs os.memfd_create and /proc, which Linux has"):
        SharedMemory(Axis.single())


def test_a_negative_capacity_is_named() -> None:
    with pytest.raises(ValueError, match="capacity_bytes=-1"):
        SharedMemory(Axis.single(), -1)
