"""Post now, wait later: the collectives for a caller that has something to compute meanwhile.

    pending = comm.post_all_reduce(partial, axis)   # on its way
    ...                                             # work that needs neither the sum nor `partial`
    total = pending.wait()                          # here

Several may be open, and be waited for in any order; all ranks of an axis post their collectives on it in the same
order. **Until wait() the tensors belong to the transfer**: to write to one that is being sent, or to read one that is
being received, gives wrong numbers and no error. One Transfer is recorded at the post, in its place among the others;
its seconds come with wait(): what the caller was held up for, in both calls, and not what its own work hid. A program
that returns with transfers that it never waited for is an error that names them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist

from shardlab.comm.calls import check_source, described, joined, route_of_peer, stacked_slices
from shardlab.comm.collectives import all_gather_single
from shardlab.comm.mesh import Axis
from shardlab.comm.recorder import Posted, Recorder
from shardlab.theory.ledger import Transfer
from shardlab.theory.traffic import NO_WIRE, Route

Result = TypeVar("Result")


class Pending(Generic[Result]):
    """What has been posted. wait() gives the result, and the buffers back to the caller."""

    def __init__(
        self,
        finish: Callable[[], Result],
        recorder: Recorder | None = None,
        posted: Posted | None = None,
        seconds: float | None = None,
    ) -> None:
        """`finish` makes the result of what has arrived. seconds: what posting took; None where nobody clocks it."""
        self._finish, self._recorder, self._posted = finish, recorder, posted
        self._seconds = seconds
        self._result: list[Result] = []

    @property
    def done(self) -> bool:
        """Whether it has been waited for."""
        return bool(self._result)

    def wait(self) -> Result:
        """Wait until it has happened; a second call gives the same result again.

        Raises CollectiveMismatch where another rank has posted something else in its place.
        """
        if not self._result:
            if self._recorder is not None and self._posted is not None:
                self._wait(self._recorder, self._posted)
            self._result.append(self._finish())
        return self._result[0]

    def _wait(self, recorder: Recorder, posted: Posted) -> None:
        started = time.perf_counter()
        with recorder.waiting(posted):
            for work in posted.works:
                work.wait()
        if self._seconds is not None:
            recorder.clock(posted, self._seconds + time.perf_counter() - started)


def post(
    op: str,
    axis: Axis,
    detail: str,
    sent: list[Transfer],
    tensors: Sequence[torch.Tensor],
    start: Callable[[], Sequence[Any]],
    finish: Callable[[], Result],
) -> Pending[Result]:
    """Record, then `start`. `tensors` are those that the transfer reads and writes: they live until it is done."""
    posted = axis.recorder.post(op, axis.name, axis.ranks, detail, sent, tensors)
    started = time.perf_counter()
    try:
        posted.works = start()
    except BaseException:
        axis.recorder.abandon(posted)
        raise
    on_cpu = all(tensor.device.type == "cpu" for tensor in tensors)
    return Pending(finish, axis.recorder, posted, time.perf_counter() - started if on_cpu else None)


def post_all_reduce(partial: torch.Tensor, axis: Axis) -> Pending[torch.Tensor]:
    """A[I, J]{X} -> A[I, J]. `partial` is consumed: wait() returns the sum, written over it (a copy if not contiguous).

    Until wait() `partial` belongs to the transfer.
    """
    if axis.size == 1:
        return Pending(lambda: partial)
    total = partial.contiguous()
    return _post(
        "all_reduce",
        axis,
        total,
        total.nbytes,
        (total,),
        lambda: dist.all_reduce(total, group=axis.group, async_op=True),
        lambda: total,
    )


def post_all_gather(local: torch.Tensor, axis: Axis, dim: int = -1) -> Pending[torch.Tensor]:
    """A[I, J_X] -> A[I, J]. wait() returns the shards of equal shape, side by side along `dim` in axis order.

    Until wait() `local` belongs to the transfer.
    """
    if axis.size == 1:
        return Pending(lambda: local)
    mine = local.contiguous()
    gathered = mine.new_empty(axis.size * mine.numel())
    return _post(
        "all_gather",
        axis,
        mine,
        gathered.nbytes,
        (mine, gathered),
        lambda: all_gather_single(gathered, mine.view(-1), group=axis.group, async_op=True),
        lambda: joined(gathered, mine, axis, dim),
    )


def post_all_to_all(local: torch.Tensor, axis: Axis, split_dim: int, concat_dim: int) -> Pending[torch.Tensor]:
    """A[I, J_X] -> A[I_X, J] with split_dim I and concat_dim J. Slice j of `local` goes to rank j of the axis.

    Until wait() `local` belongs to the transfer. Raises ValueError when the axis does not divide split_dim.
    """
    if axis.size == 1:
        return Pending(lambda: local)
    slices = stacked_slices(local, axis, split_dim, "all_to_all")
    received = torch.empty_like(slices)
    return _post(
        "all_to_all",
        axis,
        local,
        local.nbytes,
        (slices, received),
        lambda: dist.all_to_all_single(received, slices, group=axis.group, async_op=True),
        lambda: torch.cat(received.unbind(0), dim=concat_dim),
    )


def post_broadcast(tensor: torch.Tensor, axis: Axis, src: int = 0) -> Pending[torch.Tensor]:
    """A on rank `src` of the axis -> A on every rank: wait() returns it, written over `tensor` (a copy as above).

    Until wait() `tensor` belongs to the transfer, on every rank. Raises ValueError for a src that is not on the axis.
    """
    check_source(axis, src)
    if axis.size == 1:
        return Pending(lambda: tensor)
    held = tensor.contiguous()
    return _post(
        "broadcast",
        axis,
        held,
        held.nbytes,
        (held,),
        lambda: dist.broadcast(held, src=axis.ranks[src], group=axis.group, async_op=True),
        lambda: held,
        route_of_peer(src),
    )


def _post(
    op: str,
    axis: Axis,
    tensor: torch.Tensor,
    num_bytes: int,
    tensors: Sequence[torch.Tensor],
    start: Callable[[], Any],
    finish: Callable[[], torch.Tensor],
    route: Route | None = None,
) -> Pending[torch.Tensor]:
    """One collective of one Transfer. `tensor` is what all ranks must have alike."""
    route = route if tensor.device.type == "cpu" else NO_WIRE
    sent = [Transfer(op, axis.name, num_bytes, route=route)]
    return post(op, axis, described(tensor), sent, tensors, lambda: (start(),), finish)
