"""ranks.last: what a run recorded on every rank and axis, held to what its sockets counted, pair by pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from shardlab import Plan, Ranks, comm
from shardlab.algorithms import over_shared_memory
from shardlab.algorithms.shared_memory import SharedMemory
from shardlab.comm.mesh import Mesh
from shardlab.launch import wire
from shardlab.launch.recorded import Recorded
from shardlab.launch.run import Run
from shardlab.programs import tensor
from shardlab.theory import collectives
from shardlab.theory.ledger import Transfer
from shardlab.theory.traffic import NO_WIRE, Route

readable = pytest.mark.skipif(not wire.available()[0], reason="the kernel's socket counters cannot be read here")
PLANS = [Plan(tp=2), Plan(tp=3), Plan(dp=2, tp=2), Plan(pp=2, cp=2), Plan(dp=2, tp=2, ep=4)]


# ------------------------------------------------------------------------------------------------ on real ranks


def everything(mesh: Mesh, numel: int) -> None:
    """Every operation on every axis, with sizes that differ by axis so that none can stand in for another."""
    for step, name in enumerate(("dp", "pp", "cp", "tp", "ep")):
        axis, rows = mesh[name], numel + 12 * step
        if axis.size == 1:
            continue
        n, after, before = axis.size, (axis.rank + 1) % axis.size, (axis.rank - 1) % axis.size
        comm.all_reduce(torch.ones(rows), axis)
        comm.all_gather(torch.ones(rows), axis)
        comm.reduce_scatter(torch.ones(n * rows), axis)
        comm.backend_reduce_scatter(torch.ones(n * rows), axis)
        comm.all_to_all(torch.ones(n * rows), axis, 0, 0)
        comm.broadcast(torch.ones(rows), axis, src=n - 1)
        comm.exchange({after: torch.ones(rows)}, {before: torch.ones(rows)}, axis)
        comm.barrier(axis)
        summing = comm.post_all_reduce(torch.ones(rows), axis)
        turning = comm.post_exchange({after: torch.ones(rows)}, {before: torch.ones(rows)}, axis)
        summing.wait()
        turning.wait()


@readable
@pytest.mark.parametrize("numel", [0, 1, 13, 577, 100_001])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_every_axis_of_a_plan_agrees_at_every_size(ranks: Ranks, plan: Plan, numel: int) -> None:
    ranks.run(everything, numel, plan=plan, wire=True)
    assert ranks.last.differences() == []
    assert ranks.last.agrees()


@readable
def test_an_all_reduce_on_dp_and_tp(ranks: Ranks) -> None:
    """Two lines of two ranks: 0 and 1 sum with each other and not with 2 and 3."""
    ranks.run(tensor.all_reduce, 4 << 20, plan=Plan(dp=2, tp=2), wire=True)
    run = ranks.last
    assert run.agrees() and run.measured and run.source == "on the wire"
    assert not run.agrees(within=1e-9) or run.differences(within=0) == []  # framing is counted, to the byte
    assert run.by_axis == {"tp": [[Transfer("all_reduce", "tp", 4 << 20)]] * 4}
    assert run.recorded.tolist() == [[0, 4 << 20, 0, 0], [4 << 20, 0, 0, 0], [0, 0, 0, 4 << 20], [0, 0, 4 << 20, 0]]
    assert run.sent_bytes == run.traffic.sum(axis=1).max() > 4 << 20
    assert (ranks.wire == run.traffic).all() and ranks.transfers is run.transfers


def lying(mesh: Mesh, how: str) -> None:
    """A decode step's worth of small messages, and a record that is off by one of them on one rank."""
    tp, sent = mesh["tp"], mesh.recorder.transfers
    for _ in range(60):
        comm.all_reduce(torch.ones(576), tp)
    comm.broadcast(torch.ones(576), tp, src=1)
    if how == "one not recorded":
        sent.pop(0)
    elif how == "one not sent":
        sent.append(sent[0])
    elif how == "another source":
        sent[-1] = replace(sent[-1], route=Route(peer=0))
    elif how == "another axis":
        sent[0] = replace(sent[0], axis="dp")
    elif how == "said to have no wire":
        sent[0] = replace(sent[0], route=NO_WIRE)


@readable
@pytest.mark.parametrize(
    "how", ["", "one not recorded", "one not sent", "another source", "another axis", "said to have no wire"]
)
def test_one_small_message_in_sixty_is_missed(ranks: Ranks, how: str) -> None:
    ranks.run(lying, how, plan=Plan(dp=2, tp=2), wire=True)
    assert ranks.last.agrees() == (not how)
    lines = ranks.last.differences()
    assert not how or lines[0].startswith("rank ") and "bytes on the wire" in lines[0]


def in_memory(mesh: Mesh) -> None:
    with SharedMemory(mesh["tp"], 1 << 20) as shared:
        over_shared_memory.all_reduce_two_shot(torch.ones(1 << 16), shared)


@readable
def test_what_went_through_shared_memory_is_expected_to_leave_no_trace(ranks: Ranks) -> None:
    ranks.run(in_memory, plan=Plan(tp=3), wire=True)
    assert ranks.last.by_axis["tp"][0][-1] == Transfer("all_reduce", "tp", 1 << 18)
    assert ranks.last.differences() == []
    assert ranks.last.traffic.sum() < 1 << 14


SPLITS = [[0, 5000, 1, 70], [20_000, 9, 0, 3], [0, 0, 0, 0], [1, 2, 3, 40_000]]  # rank -> elements for each


def uneven(mesh: Mesh, honest: bool) -> list[float]:
    axis, width = mesh["ep"], 4
    mine, theirs = SPLITS[axis.rank], [row[axis.rank] for row in SPLITS]
    out, into = torch.full((sum(mine),), float(axis.rank)), torch.empty(sum(theirs))
    splits = tuple(width * length for length in (mine if honest else reversed(mine)))
    with axis.recorder.collective(
        "all_to_all", axis.name, axis.ranks, "uneven", out.nbytes, route=Route(splits=splits)
    ):
        dist.all_to_all_single(into, out, theirs, mine, group=axis.group)
    return into.tolist()


@readable
def test_uneven_splits_are_held_to_the_wire_peer_by_peer(ranks: Ranks) -> None:
    got = ranks.run(uneven, True, plan=Plan(dp=2, tp=2, ep=4), wire=True)
    assert got[1] == [0.0] * 5000 + [1.0] * 9 + [3.0] * 2
    assert ranks.last.differences() == []
    ranks.run(uneven, False, plan=Plan(dp=2, tp=2, ep=4), wire=True)
    assert not ranks.last.agrees()


# ------------------------------------------------------------------------------------- where nothing is measured


def test_without_counters_it_says_so_and_compares_nothing(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(pids: object) -> None:
        raise wire.WireUnavailable("no counters in this test")

    monkeypatch.setattr(wire, "snapshot", refuse)
    for _ in range(2):
        ranks.run(tensor.all_reduce, 4 << 20, plan=Plan(tp=3), wire=True)
    run = ranks.last
    assert run.source == "recorded" and not run.measured
    assert capsys.readouterr().out.count("no counters in this test") == 1, "said once a pool"
    expected = np.array(collectives.traffic_matrix("all_reduce", 4 << 20, 3))
    assert np.abs(run.bytes - expected).max() <= 1 and (run.bytes == run.recorded).all()
    for look in (lambda: run.traffic, run.agrees, run.differences, lambda: ranks.wire):
        with pytest.raises(ValueError, match="no bytes on the wire to show: no counters in this test"):
            look()


@readable
def test_counters_that_do_not_come_to_rest_are_not_believed(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = wire.snapshot
    monkeypatch.setattr(wire, "snapshot", lambda pids: replace(honest(pids), settled=False))
    ranks.run(tensor.all_reduce, 4 << 20, plan=Plan(tp=2), wire=True)
    assert ranks.last.source == "recorded"
    assert "still moving" in capsys.readouterr().out


def test_a_run_that_did_not_ask_has_no_wire(ranks: Ranks) -> None:
    ranks.run(tensor.all_reduce, 1 << 10, plan=Plan(tp=2))
    with pytest.raises(ValueError, match="was not given wire=True"):
        ranks.last.agrees()
    with pytest.raises(ValueError, match="no run to show"):
        _ = Ranks(2).last


# ---------------------------------------------------------------------------------------------------- no ranks


def test_messages_are_counted_with_their_framing() -> None:
    """Two replicas, one send from tp rank 1 to 0 of the second: ranks 3 and 2. 96 bytes with it, 48 against it."""
    plan, sent = Plan(dp=2, tp=2), Transfer("send", "tp", 1000, route=Route(peer=0))
    recorded = Recorded(plan, [[], [], [], [sent, sent]])
    assert recorded.payload[3, 2] == recorded.payload.sum() == 2000
    assert (recorded.framing[3, 2], recorded.framing[2, 3]) == (192, 96) and recorded.framing.sum() == 288


def test_two_axes_on_the_same_sockets_add_up() -> None:
    plan = Plan(dp=2, tp=2, ep=4)
    both = [Transfer("all_reduce", "tp", 1 << 20), Transfer("all_to_all", "ep", 1 << 20)]
    payload = Recorded(plan, [both] * 4).payload
    assert payload[0].tolist() == [0, (1 << 20) + (1 << 18), 1 << 18, 1 << 18]


def test_a_run_that_measured_nothing_different_agrees_and_one_byte_in_fifty_does_not() -> None:
    sent = [[Transfer("all_reduce", "tp", 1 << 20)]] * 2
    wanted = Recorded(Plan(tp=2), sent)
    exact = np.rint(wanted.payload + wanted.framing).astype(np.int64)
    empty = [{}, {}]
    assert Run([], Plan(tp=2), sent, empty, exact).agrees(within=0)
    off = exact.copy()
    off[0, 1] += (1 << 20) // 50
    assert not Run([], Plan(tp=2), sent, empty, off).agrees()
    assert Run([], Plan(tp=2), sent, empty, off).agrees(within=0.03)
