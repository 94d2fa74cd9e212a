"""Lab 07: what one layer sends under each way of splitting it. The messages at their real sizes, and no arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import torch

from shardlab import comm
from shardlab.comm.mesh import Axis, Mesh
from shardlab.theory.degrees import Plan
from shardlab.theory.ledger import Transfer
from shardlab.theory.transformer import Shape

# way of splitting -> the mesh axis that its ranks stand on. Experts are dealt over replicas: attention by DP.
AXES = {"TP": "tp", "SP": "tp", "PP": "pp", "EP": "dp", "ring": "cp", "Ulysses": "cp", "DP": "dp"}


def plan_of(way: str, world_size: int) -> Plan:
    """All ranks on the axis of that way. Raises ValueError for a way that is not in AXES."""
    if way not in AXES:
        raise ValueError(f"way={way!r}; allowed: {', '.join(AXES)}")
    return Plan(**{AXES[way]: world_size})


def layer(mesh: Mesh, way: str, shape: Shape, batch: int, seq: int, experts_per_token: int = 2) -> list[Transfer]:
    """Send what one layer of `shape` sends for x[B,S,D] in fp32, and return what comm recorded.

    The axis must divide S (SP, ring, Ulysses), B*S (EP) and the heads (Ulysses).
    TP: all_reduce(attention out), all_reduce(MLP out). SP: all_gather and reduce_scatter around each. PP: x to the
    next stage. EP: B*S/T tokens a rank, k copies of each dispatched evenly and combined. ring: K and V of S/T tokens
    go T-1 steps round. Ulysses: q, k, v to heads and the output back. DP: nothing.
    """
    axis = mesh[AXES[way]]
    _SENT[way](axis, shape, batch, seq, experts_per_token)
    return list(mesh.recorder.transfers)


def _tp(axis: Axis, shape: Shape, batch: int, seq: int, k: int) -> None:
    for _ in range(2):
        comm.all_reduce(torch.zeros(batch, seq, shape.d_model), axis)


def _sp(axis: Axis, shape: Shape, batch: int, seq: int, k: int) -> None:
    for _ in range(2):
        whole = comm.all_gather(torch.zeros(batch, seq // axis.size, shape.d_model), axis, dim=1)
        comm.reduce_scatter(whole, axis, dim=1)


def _pp(axis: Axis, shape: Shape, batch: int, seq: int, k: int) -> None:
    x = torch.zeros(batch, seq, shape.d_model)
    if axis.rank > 0:
        comm.recv(x, axis, axis.rank - 1)
    if axis.rank < axis.size - 1:
        comm.send(x, axis, axis.rank + 1)


def _ep(axis: Axis, shape: Shape, batch: int, seq: int, k: int) -> None:
    copies = torch.zeros(batch * seq // axis.size * k, shape.d_model)
    received = comm.all_to_all(copies, axis, split_dim=0, concat_dim=0)
    comm.all_to_all(received, axis, split_dim=0, concat_dim=0)


def _ring(axis: Axis, shape: Shape, batch: int, seq: int, k: int) -> None:
    leaving = torch.zeros(2, batch, seq // axis.size, shape.num_kv_heads, shape.head_dim)
    arriving = torch.empty_like(leaving)
    for _ in range(axis.size - 1):
        comm.exchange({(axis.rank + 1) % axis.size: leaving}, {(axis.rank - 1) % axis.size: arriving}, axis)
        leaving, arriving = arriving, leaving


def _ulysses(axis: Axis, shape: Shape, batch: int, seq: int, k: int) -> None:
    local_seq = seq // axis.size
    kv_heads = max(shape.num_kv_heads, axis.size)  # beyond K ranks, KV heads are copied
    for heads in (shape.num_heads, kv_heads, kv_heads):
        comm.all_to_all(torch.zeros(batch, local_seq, heads, shape.head_dim), axis, split_dim=2, concat_dim=1)
    out = torch.zeros(batch, seq, shape.num_heads // axis.size, shape.head_dim)
    comm.all_to_all(out, axis, split_dim=1, concat_dim=2)


def _dp(axis: Axis, shape: Shape, batch: int, seq: int, k: int) -> None:
    """Replicas do not talk."""


_SENT: dict[str, Callable[[Axis, Shape, int, int, int], None]] = {
    "TP": _tp,
    "SP": _sp,
    "PP": _pp,
    "EP": _ep,
    "ring": _ring,
    "Ulysses": _ulysses,
    "DP": _dp,
}
