"""The memory's layout, its barrier, what it refuses; and an axis of real ranks, which must leave nothing behind."""

from __future__ import annotations

import ast
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shardlab import Plan, Ranks
from shardlab.algorithms import memfd
from shardlab.algorithms.symmetric import symmetric_memory
from shardlab.comm.mesh import Axis, Mesh
from shardlab.launch import RankDied, RankError
from shardlab_kernels import all_reduce, barrier, launch
from shardlab_kernels.symmetric_memory import SLOT_UNIT, SymmetricMemory, pad_bytes, rank_bytes, slot_bytes
from tests.algorithms.test_shared_memory import segments
from tests.kernels.support import DEVICE


def test_a_block_has_two_slots_and_the_pads_come_first() -> None:
    memory = SymmetricMemory.virtual(1, 5 * SLOT_UNIT, DEVICE, num_blocks=2)
    assert memory.slot_bytes == 3 * SLOT_UNIT and memory.buffers.shape == (1, 2 * 2 * 3 * SLOT_UNIT)
    assert memory.buffer_ptrs.tolist() == [memory.buffers.data_ptr()]
    assert memory.pad_ptrs.tolist() == [memory.buffers.data_ptr() - pad_bytes(1, 2)]
    assert memory.epochs.tolist() == [[0, 0]]
    assert slot_bytes(0, 4) == slot_bytes(1, 4) == SLOT_UNIT
    assert rank_bytes(0, 8, 128) == 4096 + 2 * 128 * SLOT_UNIT and pad_bytes(9, 128) == 8192


def test_epochs_go_on_past_the_largest_number() -> None:
    memory = SymmetricMemory.virtual(1, 0, DEVICE)
    memory.epochs.fill_(2**31 - 2)
    for wanted in (2**31 - 1, -(2**31), 1 - 2**31):
        barrier.barrier(memory)
        assert memory.epochs[0, 0].item() == wanted


def test_it_refuses() -> None:
    with pytest.raises(ValueError, match="size=0"):
        SymmetricMemory.virtual(0, 1, DEVICE)
    with pytest.raises(ValueError, match="num_bytes=-1"):
        SymmetricMemory.virtual(1, -1, DEVICE)
    with pytest.raises(ValueError, match="aligned to 16"):
        SymmetricMemory(0, [8], torch.zeros(1, rank_bytes(0, 1, 1), dtype=torch.uint8), 0, 1, stacked=False)
    if DEVICE == "cpu":
        with pytest.raises(ValueError, match="size=2 virtual ranks wait for each other"):
            SymmetricMemory.virtual(2, 1, DEVICE)
    memory = SymmetricMemory.virtual(1, 1, DEVICE)
    memory.claim("one")
    memory.claim("one")
    with pytest.raises(ValueError, match="serves one, other needs one of its own"):
        memory.claim("other")
    with pytest.raises(ValueError, match=r"x\(2, 3\): dim 0 must be the 1 virtual ranks"):
        memory.check_ranks(x=torch.zeros(2, 3, device=DEVICE))
    with pytest.raises(ValueError, match="x is on meta"):
        memory.check_ranks(y=None, x=torch.zeros(1, 3, device="meta"))


def test_an_axis_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="num_bytes=-1"):
        symmetric_memory(Axis.single(), -1)
    monkeypatch.setattr(memfd, "available", lambda: (False, "no memfd here"))
    with pytest.raises(RuntimeError, match="no memfd here"):
        symmetric_memory(Axis.single(), 1)


# ---------------------------------------------------------------------------------------------------- real ranks

interpreted = pytest.mark.skipif(
    not launch.INTERPRETED, reason="ranks on CPUs run kernels only where they are interpreted"
)


def meeting(mesh: Mesh, first: int) -> tuple[list[float], list[int]]:
    """Each rank is late once. When this one came to each barrier and when it left, and its epochs."""
    memory = symmetric_memory(mesh["tp"], 1)
    memory.epochs.fill_(first)
    barrier.barrier(memory)
    left = []
    for late in range(mesh["tp"].size):
        if late == mesh["tp"].rank:
            time.sleep(0.05)
        came = time.monotonic()
        barrier.barrier(memory)
        left += [came, time.monotonic()]
    return left, memory.epochs[0, :2].tolist()


@interpreted
@pytest.mark.parametrize("first", [0, 2**31 - 3])  # the second one passes the largest int32 on its way
@pytest.mark.parametrize("tp", [2, 4])
def test_nobody_passes_before_all_have_come(ranks: Ranks, tp: int, first: int) -> None:
    found = ranks.run(meeting, first, plan=Plan(tp=tp), check=False)
    for call in range(tp):
        assert max(times[2 * call] for times, _ in found) <= min(times[2 * call + 1] for times, _ in found)
    last = (first + tp + 1 + 2**31) % 2**32 - 2**31
    assert all(epochs == [last, first] for _, epochs in found)


def both_axes(mesh: Mesh) -> list[float]:
    down, across = (symmetric_memory(mesh[name], 1) for name in ("dp", "tp"))
    first = all_reduce.one_shot(torch.tensor([2.0**mesh.rank]), down)
    return [first.item(), all_reduce.one_shot(first, across).item()]


@interpreted
def test_each_axis_has_its_own(ranks: Ranks) -> None:
    assert ranks.run(both_axes, plan=Plan(dp=2, tp=2), check=False) == [[5, 15], [10, 15], [5, 15], [10, 15]]


def dropped(mesh: Mesh) -> tuple[int, int]:
    memory = symmetric_memory(mesh["tp"], 1)
    during = len(segments())
    del memory
    return during, len(segments())


def test_it_goes_with_its_last_user(ranks: Ranks) -> None:
    assert ranks.run(dropped) == [(1, 0)] * 4


def hold(mesh: Mesh, how: str, folder: str) -> None:
    """Make memory, say what it is; then one rank does not come, while the others wait inside a kernel."""
    memory = symmetric_memory(mesh["tp"], 1)
    all_reduce.one_shot(torch.ones(9), memory)
    Path(folder, f"rank{mesh.rank}").write_text(repr(segments()))
    if mesh.rank == 1:
        while len(os.listdir(folder)) < mesh.world_size:
            time.sleep(0.01)
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyError("no such key")
    all_reduce.one_shot(torch.ones(9), memory)


@pytest.fixture(scope="module")
def pool() -> Iterator[Ranks]:
    """Ranks of its own, which these tests break."""
    with Ranks(4) as ranks:
        yield ranks


@interpreted
@pytest.mark.parametrize(("how", "error"), [("killed", RankDied), ("raised", RankError)])
def test_whatever_happens_nothing_is_left(pool: Ranks, tmp_path: Path, how: str, error: type[Exception]) -> None:
    pids = pool.start().pids
    with pytest.raises(error, match="no such key" if how == "raised" else "SIGKILL"):
        pool.run(hold, how, str(tmp_path), timeout_s=30)
    held = [ast.literal_eval(path.read_text()) for path in sorted(tmp_path.iterdir())]
    assert len(held) == 4 and held[1:] == held[:1] * 3 and len(held[0]) == 1, "all ranks map one and the same"
    assert next(iter(held[0]))[2] == "/memfd:shardlab (deleted)", "it has no name while it is there"
    assert not any(segments(pid) for pid in pids), "and no process has it after"
    assert pool.run(dropped) == [(1, 0)] * 4  # the pool heals
