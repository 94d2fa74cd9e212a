"""Post and wait: several transfers open at once, waited for in any order, recorded where they were posted."""

from __future__ import annotations

import time

import pytest
import torch

from shardlab import Plan, Ranks, comm
from shardlab.comm.mesh import Axis, Mesh
from shardlab.comm.recorder import NeverWaited, Recorder
from shardlab.launch import RankError, RankTimeout
from shardlab.theory.ledger import Transfer

DEGREES = [1, 2, 3, 4]


def mine(rank: int, *shape: int) -> torch.Tensor:
    """A different tensor of whole numbers for each rank."""
    return torch.randint(-50, 50, shape, generator=torch.Generator().manual_seed(rank))


def both_ways(mesh: Mesh) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each collective posted, all open at once and waited for backwards; and the blocking one of the same tensors."""
    tp, n = mesh["tp"], mesh["tp"].size
    cut, strided = mine(mesh.rank, 2 * n, 5), mine(mesh.rank, 5, 3).T
    pending = [
        comm.post_all_reduce(mine(mesh.rank, 3, 5), tp),
        comm.post_all_reduce(strided.clone().T.contiguous().T, tp),
        comm.post_all_gather(mine(mesh.rank, 2, 3, 4), tp, dim=1),
        comm.post_all_gather(mine(mesh.rank, 2, 3), tp, dim=0),
        comm.post_all_to_all(cut, tp, split_dim=0, concat_dim=1),
        comm.post_broadcast(mine(mesh.rank, 7), tp, src=n - 1),
    ]
    posted = [one.wait() for one in reversed(pending)][::-1]
    assert all(one.done and one.wait() is result for one, result in zip(pending, posted, strict=True))
    blocking = [
        comm.all_reduce(mine(mesh.rank, 3, 5), tp),
        comm.all_reduce(strided.clone(), tp),
        comm.all_gather(mine(mesh.rank, 2, 3, 4), tp, dim=1),
        comm.all_gather(mine(mesh.rank, 2, 3), tp, dim=0),
        comm.all_to_all(cut, tp, split_dim=0, concat_dim=1),
        comm.broadcast(mine(mesh.rank, 7), tp, src=n - 1),
    ]
    return list(zip(posted, blocking, strict=True))


@pytest.mark.parametrize("degree", DEGREES)
def test_a_posted_collective_is_the_blocking_one(ranks: Ranks, degree: int) -> None:
    for pairs in ranks.run(both_ways, plan=Plan(tp=degree)):
        assert all(torch.equal(posted, blocking) for posted, blocking in pairs)
    for sent in ranks.transfers:  # recorded alike, bytes and order, whatever the order of the waits
        half = len(sent) // 2
        assert sent[:half] == sent[half:] and len(sent) == (12 if degree > 1 else 0)
        assert all(one.seconds is not None and one.seconds > 0 for one in sent)


def ring(mesh: Mesh, steps: int) -> list[float]:
    """Each rank's number goes round; the next one travels while the last is worked on."""
    tp = mesh["tp"]
    after, before = (tp.rank + 1) % tp.size, (tp.rank - 1) % tp.size
    held, seen = torch.full((3,), float(tp.rank)), []
    for _ in range(steps):
        arriving = torch.empty(3)
        pending = comm.post_exchange({after: held}, {before: arriving}, tp)
        seen.append(held[0].item())
        held = pending.wait()[before]
    return seen


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_a_ring_of_posted_exchanges(ranks: Ranks, degree: int) -> None:
    seen = ranks.run(ring, degree, plan=Plan(tp=degree))
    assert seen == [[float((rank - step) % degree) for step in range(degree)] for rank in range(degree)]
    assert ranks.transfers == [[Transfer("send", "tp", 12)] * degree] * degree


def pipeline(mesh: Mesh, microbatches: int) -> list[float]:
    """Every stage posts all its receives first, adds its number to what comes, and posts it on: many are open."""
    pp = mesh["pp"]
    x = [torch.full((4,), 100.0 * number) for number in range(microbatches)]
    arriving = [comm.post_recv(one, pp, pp.rank - 1) for one in x] if pp.rank else []
    leaving = []
    for number in range(microbatches):
        if arriving:
            arriving[number].wait()
        x[number] += 1 + pp.rank
        if pp.rank + 1 < pp.size:
            leaving.append(comm.post_send(x[number], pp, pp.rank + 1))
    assert all(one.wait() is tensor for one, tensor in zip(leaving, x, strict=False))
    return [one[0].item() for one in x]


@pytest.mark.parametrize("microbatches", [1, 5, 20])
@pytest.mark.parametrize("stages", [2, 3, 4])
def test_a_pipeline_of_posted_sends(ranks: Ranks, stages: int, microbatches: int) -> None:
    *_, last = ranks.run(pipeline, microbatches, plan=Plan(pp=stages))
    assert last == [100.0 * number + sum(range(1, stages + 1)) for number in range(microbatches)]
    assert ranks.transfers == [[Transfer("send", "pp", 16)] * microbatches] * (stages - 1) + [[]]


def across(mesh: Mesh) -> float:
    """Rank 0 posts its sum before it sends what rank 1 must have before it can: comparing must not block the post."""
    tp, token = mesh["tp"], torch.zeros(1)
    if tp.rank == 0:
        pending = comm.post_all_reduce(torch.ones(2), tp)
        comm.send(token + 5, tp, 1)
    else:
        comm.recv(token, tp, 0)
        pending = comm.post_all_reduce(torch.ones(2) * token, tp)
    return pending.wait()[0].item()


@pytest.mark.parametrize("check", [True, False])
def test_posting_waits_for_nobody(ranks: Ranks, check: bool) -> None:
    assert ranks.run(across, plan=Plan(tp=2), check=check) == [6.0, 6.0]


def seconds_of(mesh: Mesh) -> list[float | None]:
    pending = comm.post_all_reduce(torch.ones(4), mesh["tp"])
    before = mesh.recorder.transfers[-1].seconds
    comm.barrier(mesh["tp"])
    time.sleep(0.5)  # it arrives meanwhile: the caller is not held up for so long
    pending.wait()
    return [before, mesh.recorder.transfers[-1].seconds]


def test_seconds_are_what_the_caller_was_held_up_for(ranks: Ranks) -> None:
    found = ranks.run(seconds_of, plan=Plan(tp=2))
    assert all(before is None and after is not None for before, after in found)
    assert min(after for _, after in found if after is not None) < 0.4, "what the sleep hid is not in it"


# ------------------------------------------------------------------------------------------------- what goes wrong


def forgets(mesh: Mesh) -> float:
    comm.post_all_reduce(torch.ones(2), mesh["tp"])
    comm.post_exchange({1 - mesh["tp"].rank: torch.ones(2)}, {1 - mesh["tp"].rank: torch.ones(2)}, mesh["tp"])
    comm.post_all_gather(torch.ones(2), mesh["tp"])
    comm.post_all_reduce(torch.ones(2), mesh["tp"])
    return comm.all_reduce(torch.ones(1), mesh["tp"]).item()


def test_what_is_never_waited_for_is_an_error_that_names_it(ranks: Ranks) -> None:
    left = r"NeverWaited: posted and never waited for: 2 x all_reduce on tp, exchange on tp, all_gather on tp\. Call"
    with pytest.raises(RankError, match=left):
        ranks.run(forgets, plan=Plan(tp=2))
    assert ranks.run(ring, 2, plan=Plan(tp=2)) == [[0.0, 1.0], [1.0, 0.0]], "the next run is not held to it"


def test_the_recorder_forgets_what_could_not_be_posted() -> None:
    recorder = Recorder()
    sent = [Transfer("send", "tp", 8)]
    recorder.abandon(recorder.post("send", "tp", (0, 1), "", sent, ()))
    assert recorder.transfers == [] and recorder.finish() is None
    recorder.post("send", "tp", (0, 1), "", sent, ())
    with pytest.raises(NeverWaited, match="send on tp"):
        recorder.finish()


def shapes_differ(mesh: Mesh, early: int) -> None:
    tp = mesh["tp"]
    if tp.rank != early:
        time.sleep(0.3)
    pending = comm.post_all_reduce(torch.ones(4 if tp.rank == 1 else 8), tp)
    pending.wait()


@pytest.mark.parametrize("early", [0, 1, -1])
@pytest.mark.parametrize("degree", [2, 3])
def test_shapes_that_differ_are_found_whoever_posts_first(ranks: Ranks, degree: int, early: int) -> None:
    with pytest.raises(
        RankError, match=r"CollectiveMismatch: all_reduce #1 on tp: rank \d has .*, rank \d has"
    ) as error:
        ranks.run(shapes_differ, early, plan=Plan(tp=degree))
    assert "(4,) float32" in str(error.value) and "(8,) float32" in str(error.value)


def one_waits(mesh: Mesh) -> None:
    """Rank 0 has one transfer open and waits in another that rank 1 never posts."""
    tp = mesh["tp"]
    comm.all_reduce(torch.ones(1), tp)
    if tp.rank == 0:
        arriving = comm.post_recv(torch.empty(2), tp, 1)
        comm.post_all_gather(torch.ones(3), tp).wait()
        arriving.wait()
    else:
        time.sleep(1000)


def test_a_hang_shows_what_is_posted_and_what_is_waited_in() -> None:
    with Ranks(2) as two:
        two.run(across)  # the ranks are warm, and only the hang takes time
        with pytest.raises(RankTimeout) as error:
            two.run(one_waits, timeout_s=4)
    message = str(error.value)
    assert "rank 1 did not enter all_gather #2 on tp, which rank 0 waits in" in message
    assert (
        "rank 0: waits in all_gather #2 on tp (all_gather (3,) float32); posted and not waited for: recv #1 on tp"
        in (message)
    )


# ------------------------------------------------------------------------------------ ranks that are not on the axis


def axis_of_three(rank: int = 2) -> Axis:
    return Axis("pp", rank, 3, (4, 5, 6), None, Recorder())


@pytest.mark.parametrize("rank", [-1, 3, 2])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda axis, rank: comm.send(torch.ones(2), axis, rank), "send: dst="),
        (lambda axis, rank: comm.recv(torch.ones(2), axis, rank), "recv: src="),
        (lambda axis, rank: comm.post_send(torch.ones(2), axis, rank), "post_send: dst="),
        (lambda axis, rank: comm.post_recv(torch.ones(2), axis, rank), "post_recv: src="),
        (lambda axis, rank: comm.exchange({rank: torch.ones(2)}, {}, axis), "exchange with rank "),
        (lambda axis, rank: comm.exchange({}, {rank: torch.ones(2)}, axis), "exchange with rank "),
        (lambda axis, rank: comm.post_exchange({rank: torch.ones(2)}, {}, axis), "post_exchange with rank "),
    ],
)
def test_a_rank_off_the_axis_or_oneself_is_refused(call, name: str, rank: int) -> None:
    axis = axis_of_three()
    words = f"{name}{rank} on the pp axis, where this is rank 2 of 3: rank 0 or 1 works"
    with pytest.raises(ValueError, match=words):
        call(axis, rank)
    assert axis.recorder.transfers == [] and not axis.recorder.open


@pytest.mark.parametrize("rank", [-1, 3])
def test_a_source_off_the_axis_is_refused(rank: int) -> None:
    for call in (comm.broadcast, comm.post_broadcast):
        with pytest.raises(ValueError, match=rf"src={rank} is not on the pp axis of 3 ranks \(0\.\.2\)"):
            call(torch.ones(2), axis_of_three(), src=rank)


def test_an_axis_of_one_has_nobody_to_send_to() -> None:
    with pytest.raises(
        ValueError, match=r"send: dst=0 on the tp axis, where this is rank 0 of 1: it has no other rank"
    ):
        comm.send(torch.ones(2), Axis.single(), 0)


def test_what_is_received_into_must_be_contiguous() -> None:
    with pytest.raises(ValueError, match=r"post_recv: src=0: shape \(2, 3\) is not contiguous"):
        comm.post_recv(torch.ones(3, 2).T, axis_of_three(), 0)
