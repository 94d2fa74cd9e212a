"""Bytes on the wire against the formula, for each collective, and a model's transfers against the ledger."""

from __future__ import annotations

import torch

from benchmarks import Row
from shardlab import Plan, Ranks, comm
from shardlab.comm.mesh import Mesh
from shardlab.launch import wire
from shardlab.programs.forward import forward_transfers
from shardlab.theory import collectives, ledger
from shardlab.theory.ledger import Transfer
from shardlab.theory.transformer import Shape

NUM_BYTES = 12 << 20  # 2, 3 and 4 divide it
DEGREES = (2, 3, 4)
OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
SHAPE = Shape(4, 144, 384, 9, 3, 16, 1003, name="small, 9 heads, 3 KV heads, odd vocabulary")


def rows() -> list[Row]:
    """One row a collective, and one for a whole model."""
    readable, why = wire.available()
    with Ranks(max(DEGREES), backend="gloo") as ranks:
        found = [_collective(ranks, op) if readable else _payload_only(ranks, op, why) for op in OPS]
        return [*found, _model(ranks)]


def collective(mesh: Mesh, op: str, num_bytes: int) -> None:
    """One collective whose S is `num_bytes`, in fp32."""
    tp = mesh["tp"]
    whole = num_bytes // 4
    match op:
        case "all_reduce":
            comm.all_reduce(torch.ones(whole), tp)
        case "all_gather":
            comm.all_gather(torch.ones(whole // tp.size), tp)
        case "reduce_scatter":
            comm.reduce_scatter(torch.ones(whole), tp)
        case "all_to_all":
            comm.all_to_all(torch.ones(whole), tp, split_dim=0, concat_dim=0)
        case _:
            comm.broadcast(torch.ones(whole), tp)


def _collective(ranks: Ranks, op: str) -> Row:
    ratios, exact = [], True
    for tp in DEGREES:
        ranks.run(collective, op, NUM_BYTES, plan=Plan(tp=tp), wire=True)
        sent = int(ranks.wire.sum(axis=1).max())
        ratios.append(sent / collectives.wire_bytes(op, num_bytes=NUM_BYTES, world_size=tp))
        exact = exact and _payload_is_exact(ranks, op)
    met = exact and all(abs(ratio - 1) <= 0.01 for ratio in ratios)
    text = " / ".join(f"{ratio:.4f}" for ratio in ratios)
    return Row(
        "C7",
        _what(op),
        f"{text} of the formula; payload {'equal' if exact else 'WRONG'}",
        "within 1 %, equal",
        met,
    )


def _payload_only(ranks: Ranks, op: str, why: str) -> Row:
    exact = True
    for tp in DEGREES:
        ranks.run(collective, op, NUM_BYTES, plan=Plan(tp=tp))
        exact = exact and _payload_is_exact(ranks, op)
    return Row("C7", _what(op), f"payload {'equal' if exact else 'WRONG'}; wire not read: {why}", "equal", exact)


def _payload_is_exact(ranks: Ranks, op: str) -> bool:
    return all(recorded == [Transfer(op, "tp", NUM_BYTES)] for recorded in ranks.transfers)


def _model(ranks: Ranks) -> Row:
    """A prefill and a decode step: the list of transfers, in order, against the one that the ledger writes."""
    equal = True
    for tp in (1, *DEGREES):
        for batch, seq in ((2, 64), (2, 1)):
            predicted = ledger.forward(SHAPE, Plan(tp=tp), batch=batch, seq=seq)
            recorded = ranks.run(forward_transfers, SHAPE, batch, seq, plan=Plan(tp=tp))
            equal = equal and all(list(one) == predicted for one in recorded)
    what = f"every transfer of a forward, {SHAPE.num_layers} layers, T = 1, 2, 3, 4, prefill and decode"
    return Row("C7", what, f"{'equal to' if equal else 'NOT'} the ledger's list", "equal", equal)


def _what(op: str) -> str:
    return f"{op}, 12 MiB, T = {' / '.join(map(str, DEGREES))}: bytes sent"
