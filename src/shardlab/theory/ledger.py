"""What one forward must send: the list of transfers that follows from a model's shape and a plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from shardlab.theory.collectives import wire_bytes
from shardlab.theory.plan import Plan
from shardlab.theory.split import check_tp
from shardlab.theory.transformer import Shape


@dataclass(frozen=True)
class Transfer:
    """One collective over one axis of the mesh.

    num_bytes is the size S of nccl-tests, not what goes over the wire (collectives.wire_bytes says that).
    all_reduce, broadcast, send: the tensor; all_gather: the whole gathered result; reduce_scatter and
    all_to_all: the whole input of a rank. seconds is for measurements and takes no part in comparison, so a
    prediction equals a record of the same op, axis and bytes.
    """

    op: str
    axis: str
    num_bytes: int
    seconds: float | None = field(default=None, compare=False, repr=False)


def sent_bytes(transfers: Iterable[Transfer], *, world_size: int) -> float:
    """What one rank sends for these transfers on `world_size` ranks, each with its default algorithm."""
    return sum(wire_bytes(one.op, num_bytes=one.num_bytes, world_size=world_size) for one in transfers)


def forward(
    shape: Shape,
    plan: Plan,
    *,
    batch: int,
    seq: int,
    dtype_bytes: int = 4,
    logit_positions: int | None = None,
) -> list[Transfer]:
    """tokens[B,S] -> logits[B,P,V]: the transfers of one rank, in order; every tp rank has the same list.

    Tensor parallelism: all_reduce(embedding[B,S,D]), then for every layer all_reduce(attention out[B,S,D])
    and all_reduce(MLP out[B,S,D]), then all_gather(logits[B,P,V_tp]). A rank's logits are padded to
    ceil(V/T) columns for the gather, so that is what travels. `seq` counts the new tokens (decode: 1),
    `batch` one replica's sequences. logit_positions is P: None for every position, 1 where only the last one
    is wanted (generate). Replicas (dp) send nothing. tp=1 sends nothing. Shoeybi et al. 2019, arXiv
    1909.08053, section 3.
    Raises ValueError for sizes below 1, degrees that the shape does not allow, and axes not predicted yet.
    """
    positions = seq if logit_positions is None else logit_positions
    for name, value in (("batch", batch), ("seq", seq), ("dtype_bytes", dtype_bytes)):
        if value < 1:
            raise ValueError(f"{name}={value}: 1 or more is needed")
    if not 1 <= positions <= seq:
        raise ValueError(f"logit_positions={logit_positions}: 1..{seq} or None for all {seq} positions")
    for axis in ("pp", "cp", "ep"):
        if getattr(plan, axis) > 1:
            raise ValueError(f"{axis}={getattr(plan, axis)}: the ledger predicts dp and tp; {axis} must be 1")
    check_tp(shape, plan.tp)
    if plan.tp == 1:
        return []
    hidden = Transfer("all_reduce", "tp", batch * seq * shape.d_model * dtype_bytes)
    columns = plan.tp * -(-shape.vocab_size // plan.tp)
    logits = Transfer("all_gather", "tp", batch * positions * columns * dtype_bytes)
    return [hidden] * (1 + 2 * shape.num_layers) + [logits]
