"""Sends and receives between ranks of an axis: to wait for at once, or to post now and wait for later.

A rank is a position on the axis, 0..size-1, and another one than this; the axis does not wrap around. num_bytes of a
Transfer is the tensor; the sender records it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist

from shardlab.comm.calls import check_peer, described, recorded, route_of_peer
from shardlab.comm.mesh import Axis
from shardlab.comm.posted import Pending, post
from shardlab.theory.ledger import Transfer
from shardlab.theory.traffic import NO_WIRE


def send(tensor: torch.Tensor, axis: Axis, dst: int) -> None:
    """Send to rank `dst` of the axis. Blocks until the tensor may be reused.

    Raises ValueError for a rank that is not on the axis, and for this one.
    """
    check_peer("send: dst=", axis, dst)
    tensor = tensor.contiguous()
    with recorded("send", axis, tensor, tensor.nbytes, route_of_peer(dst)):
        dist.send(tensor, dst=axis.ranks[dst], group=axis.group)


def recv(tensor: torch.Tensor, axis: Axis, src: int) -> torch.Tensor:
    """Receive into `tensor` from rank `src` of the axis, and return it. The sender records the bytes.

    Raises ValueError for a rank that is not on the axis, and for this one.
    """
    check_peer("recv: src=", axis, src)
    with recorded("recv", axis, tensor, 0):
        dist.recv(tensor, src=axis.ranks[src], group=axis.group)
    return tensor


def exchange(sends: Mapping[int, torch.Tensor], recvs: Mapping[int, torch.Tensor], axis: Axis) -> None:
    """Send a tensor to some ranks of the axis and receive one from others, all at once; wait for all of it.

    `sends` and `recvs` are {rank of the axis: contiguous tensor}; what is received is written into the tensors of
    `recvs`. A pair agrees on the length beforehand; an empty tensor is not sent. The step that textbook algorithms
    are made of. Records a Transfer("send") for each tensor sent; their seconds are those of the whole step.
    Raises ValueError for a rank that is no peer, and for a tensor that is not contiguous.
    """
    step = Step(sends, recvs, axis, "exchange")
    if step.is_empty:
        return
    with axis.recorder.step("exchange", axis.name, axis.ranks, step.detail, step.sent, clocked=step.on_cpu):
        for request in step.start():
            request.wait()


def post_send(tensor: torch.Tensor, axis: Axis, dst: int) -> Pending[torch.Tensor]:
    """Start to send to rank `dst` of the axis. wait() returns the tensor, which may be reused then, and not before.

    What is not contiguous is copied now. Raises ValueError for a rank that is not on the axis, and for this one.
    """
    check_peer("post_send: dst=", axis, dst)
    leaving = tensor.contiguous()
    route = route_of_peer(dst) if leaving.device.type == "cpu" else NO_WIRE
    sent = [Transfer("send", axis.name, leaving.nbytes, route=route)]
    detail = f"{described(leaving)} to {dst}"
    return post("send", axis, detail, sent, (leaving,), lambda: _start({dst: leaving}, {}, axis), lambda: tensor)


def post_recv(tensor: torch.Tensor, axis: Axis, src: int) -> Pending[torch.Tensor]:
    """Start to receive into `tensor` from rank `src` of the axis. wait() returns it; until then it belongs to the
    transfer. The sender records the bytes.

    Raises ValueError for a rank that is not on the axis, for this one, and for a tensor that is not contiguous.
    """
    check_peer("post_recv: src=", axis, src)
    _check_contiguous("post_recv: src=", src, tensor)
    detail = f"{described(tensor)} from {src}"
    return post("recv", axis, detail, [], (tensor,), lambda: _start({}, {src: tensor}, axis), lambda: tensor)


def post_exchange(
    sends: Mapping[int, torch.Tensor], recvs: Mapping[int, torch.Tensor], axis: Axis
) -> Pending[Mapping[int, torch.Tensor]]:
    """Start what exchange does. wait() returns `recvs`, filled; until then all the tensors belong to the transfer.

    Records a Transfer("send") for each tensor sent, and raises ValueError, as exchange does.
    """
    step = Step(sends, recvs, axis, "post_exchange")
    if step.is_empty:
        return Pending(lambda: recvs)
    return post("exchange", axis, step.detail, step.sent, step.tensors, step.start, lambda: recvs)


class Step:
    """Sends and receives that start together: what exchange waits for, and posted transfers leave open."""

    def __init__(
        self, sends: Mapping[int, torch.Tensor], recvs: Mapping[int, torch.Tensor], axis: Axis, op: str
    ) -> None:
        """Leaves out what is empty. Raises ValueError for a rank that is no peer, a tensor that is not contiguous."""
        self.axis = axis
        self.outgoing = {rank: tensor for rank, tensor in sends.items() if tensor.numel()}
        self.incoming = {rank: tensor for rank, tensor in recvs.items() if tensor.numel()}
        for rank, tensor in (*self.outgoing.items(), *self.incoming.items()):
            check_peer(f"{op} with rank ", axis, rank)
            _check_contiguous(f"{op} with rank ", rank, tensor)
        self.tensors = (*self.outgoing.values(), *self.incoming.values())
        self.is_empty = not self.tensors
        self.on_cpu = all(tensor.device.type == "cpu" for tensor in self.tensors)
        self.detail = f"to {list(self.outgoing)} from {list(self.incoming)}"
        self.sent = [
            Transfer("send", axis.name, tensor.nbytes, route=route_of_peer(rank) if self.on_cpu else NO_WIRE)
            for rank, tensor in self.outgoing.items()
        ]

    def start(self) -> list[dist.Work]:
        """Hand all of it to the backend."""
        return _start(self.outgoing, self.incoming, self.axis)


def _start(outgoing: Mapping[int, torch.Tensor], incoming: Mapping[int, torch.Tensor], axis: Axis) -> list[dist.Work]:
    """Hand sends and receives to the backend. Wait for every one of the requests; there may be fewer than tensors."""
    calls = [(dist.irecv, rank, tensor) for rank, tensor in incoming.items()]
    calls += [(dist.isend, rank, tensor) for rank, tensor in outgoing.items()]
    if any(tensor.device.type != "cpu" for _, _, tensor in calls):
        # one launch on NCCL: single sends that wait for each other's receives would hang
        return dist.batch_isend_irecv(
            [dist.P2POp(call, tensor, axis.ranks[rank], axis.group) for call, rank, tensor in calls]
        )
    # gloo posts them one by one, and half a batch's time would go into making it
    requests = [call(tensor, axis.ranks[rank], axis.group) for call, rank, tensor in calls]
    assert all(request is not None for request in requests), "this rank is on the axis"
    return [request for request in requests if request is not None]


def _check_contiguous(what: str, rank: int, tensor: torch.Tensor) -> None:
    if not tensor.is_contiguous():
        raise ValueError(f"{what}{rank}: shape {tuple(tensor.shape)} is not contiguous")
