"""What one forward must send: the list of transfers that follows from a model's shape and a plan.

`forward` is one rank's own list. What a layer sends is in the functions below it: ring_attention and its rivals for a
sequence that is split (cp), expert_exchange for experts that are placed on ranks (ep).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from shardlab.theory import per_rank
from shardlab.theory.collectives import wire_bytes
from shardlab.theory.degrees import Plan
from shardlab.theory.split import check_tp
from shardlab.theory.traffic import Route
from shardlab.theory.transformer import Shape


@dataclass(frozen=True)
class Transfer:
    """One collective over one axis of the mesh.

    num_bytes is the size S of nccl-tests, not what goes over the wire (collectives.wire_bytes says that).
    all_reduce, broadcast, send: the tensor; all_gather: the whole gathered result; reduce_scatter and
    all_to_all: the whole input of a rank. seconds and route are for measurements and take no part in comparison, so a
    prediction equals a record of the same op, axis and bytes.
    """

    op: str
    axis: str
    num_bytes: int
    seconds: float | None = field(default=None, compare=False, repr=False)
    route: Route | None = field(default=None, compare=False, repr=False)


def sent_bytes(transfers: Iterable[Transfer], *, world_size: int) -> float:
    """What one rank sends for these transfers on `world_size` ranks, each with its default algorithm."""
    return sum(wire_bytes(one.op, num_bytes=one.num_bytes, world_size=world_size) for one in transfers)


def sent_bytes_by_axis(transfers: Iterable[Transfer], plan: Plan) -> dict[str, float]:
    """The same where transfers are on several axes: axis -> bytes that one rank sends over it."""
    sent: dict[str, float] = {}
    for one in transfers:
        size = getattr(plan, one.axis)
        sent[one.axis] = sent.get(one.axis, 0.0) + wire_bytes(one.op, num_bytes=one.num_bytes, world_size=size)
    return sent


def forward(
    shape: Shape,
    plan: Plan,
    *,
    batch: int,
    seq: int,
    dtype_bytes: int = 4,
    logit_positions: int | None = None,
    stage: int = 0,
    tp_rank: int = 0,
) -> list[Transfer]:
    """tokens[B,S] -> logits[B,P,V]: the transfers of one rank of pipeline stage `stage`, in order.

    dp: replicas send nothing, but for experts that they share (ep).
    tp: all_reduce(embedding[B,S,D]), then for every layer all_reduce(attention out[B,S,D]) and all_reduce(MLP
        out[B,S,D]), then all_gather(logits[B,P,V_tp]), padded to ceil(V/T) columns a rank. Every tp rank has
        the same list. Shoeybi et al. 2019, arXiv 1909.08053, section 3.
    pp: send(x[B,S,D]) after the stage's layers, but for the last stage: P-1 sends a forward, counted by the sender.
        Every tp rank of a stage sends the same tensor. The embedding is on the first stage, the logits on the
        last. `batch` is one microbatch, so m of them send m such lists. Huang et al. 2018 (GPipe), arXiv 1811.06965.
    cp: S is padded to a multiple of T and a rank works on S/T tokens of each sequence; ring_attention in every layer.
        The logits are those of the rank that has the positions wanted.
    ep: expert_exchange in place of the MLP's all_reduce, in every layer that has experts.

    `seq` counts the new tokens, `batch` one replica's sequences. logit_positions is P: None for every position, 1
    where only the last one is wanted (generate). One decode step under cp is `decode_step`. tp_rank matters under
    cp alone, where KV heads may be dealt unevenly.
    Raises ValueError for sizes below 1, and degrees that the shape does not allow.
    """
    positions = _check(shape, plan, batch, seq, dtype_bytes, logit_positions, stage)
    if plan.cp > seq:
        raise ValueError(f"seq={seq} cannot be split over cp={plan.cp}; a decode step under cp is ledger.decode_step")
    local_seq = -(-seq // plan.cp)
    attention = ring_attention(shape, plan, batch=batch, seq=seq, dtype_bytes=dtype_bytes, tp_rank=tp_rank)
    return _layers(shape, plan, attention, batch, local_seq, dtype_bytes, min(positions, local_seq), stage)


def whole_forward(
    shape: Shape, plan: Plan, *, batch: int, seq: int, dtype_bytes: int = 4, logit_positions: int | None = None
) -> tuple[list[Transfer], ...]:
    """The same for the whole pipeline: one list a stage, of that stage's tp rank 0."""
    sizes = {"batch": batch, "seq": seq, "dtype_bytes": dtype_bytes, "logit_positions": logit_positions}
    return tuple(forward(shape, plan, **sizes, stage=stage) for stage in range(plan.pp))


def decode_step(
    shape: Shape, plan: Plan, *, batch: int, dtype_bytes: int = 4, stage: int = 0, tp_rank: int = 0
) -> list[Transfer]:
    """token[B,1] -> logits[B,1,V] over a cache of any length: one rank's transfers.

    Without cp this is forward(seq=1). With cp the cache stays where the prefill left it, S/T tokens a rank: every
    rank computes the new token against its own part, and merge_attention makes one of the parts. The rest of the
    layer is the same on all cp ranks.
    """
    _check(shape, plan, batch, 1, dtype_bytes, None, stage)
    merge = merge_attention(shape, plan, batch=batch, dtype_bytes=dtype_bytes, tp_rank=tp_rank)
    return _layers(shape, plan, merge, batch, 1, dtype_bytes, 1, stage)


# ------------------------------------------------------------------------------------------------ one layer


def ring_attention(
    shape: Shape, plan: Plan, *, batch: int, seq: int, dtype_bytes: int = 4, tp_rank: int = 0
) -> list[Transfer]:
    """One layer's attention over sequences split on cp: T-1 sends of this rank's K and V, passed round the ring.

    k, v[B,S/T,K_tp,H] travel together: 2 * B * S/T * K_tp * H * dtype_bytes a send (a latent cache: its one vector).
    T chunks of work, T-1 transfers. Causal masks change who works, not what travels. Liu, Zaharia, Abbeel 2023,
    arXiv 2310.01889.
    """
    if plan.cp == 1:
        return []
    chunk = batch * -(-seq // plan.cp) * _kv_bytes(shape, plan, dtype_bytes, tp_rank)
    return [Transfer("send", "cp", chunk)] * (plan.cp - 1)


def ulysses(
    shape: Shape, plan: Plan, *, batch: int, seq: int, dtype_bytes: int = 4, tp_rank: int = 0
) -> list[Transfer]:
    """The same attention by heads: all_to_all of q, k and v from [B,S/T,heads,H] to [B,S,heads/T,H], and of out back.

    Where T is above the rank's KV heads, k and v are copied until each rank gets one. Jacobs et al. 2023, arXiv
    2309.14509. Raises ValueError for more cp ranks than query heads, and for a latent cache.
    """
    if plan.cp == 1:
        return []
    if shape.mla is not None:
        raise ValueError(f"{shape.name or 'shape'} keeps a latent cache: it has no K and V heads to exchange")
    heads = len(per_rank.query_heads(shape, plan.tp)[tp_rank])
    if plan.cp > heads:
        raise ValueError(f"cp={plan.cp} is above the {heads} query heads of a rank; degrees that work: 1..{heads}")
    kv_heads = max(len(per_rank.kv_heads(shape, plan.tp)[tp_rank]), plan.cp)
    one_head = batch * -(-seq // plan.cp) * shape.head_dim * dtype_bytes
    return [Transfer("all_to_all", "cp", one_head * count) for count in (heads, kv_heads, kv_heads, heads)]


def ulysses_fused(
    shape: Shape, plan: Plan, *, batch: int, seq: int, dtype_bytes: int = 4, tp_rank: int = 0
) -> list[Transfer]:
    """The same bytes in two all_to_alls: q, k and v as one tensor, then out."""
    parts = ulysses(shape, plan, batch=batch, seq=seq, dtype_bytes=dtype_bytes, tp_rank=tp_rank)
    if not parts:
        return []
    return [Transfer("all_to_all", "cp", sum(one.num_bytes for one in parts[:3])), parts[3]]


def merge_attention(shape: Shape, plan: Plan, *, batch: int, dtype_bytes: int = 4, tp_rank: int = 0) -> list[Transfer]:
    """One layer of a decode step over a cache split on cp: all_gather of each rank's out[B,N_tp,H] and lse[B,N_tp].

    The log-sum-exp is fp32 whatever the rest is, and travels with out. A latent cache gathers latent outputs.
    """
    if plan.cp == 1:
        return []
    width = shape.head_dim if shape.mla is None else shape.mla.kv_rank
    heads = len(per_rank.query_heads(shape, plan.tp)[tp_rank])
    return [Transfer("all_gather", "cp", plan.cp * batch * heads * (width * dtype_bytes + 4))]


def sequence_parallel(shape: Shape, plan: Plan, *, batch: int, seq: int, dtype_bytes: int = 4) -> list[Transfer]:
    """One layer of Megatron's sequence parallelism on the tp axis: all_gather(x[B,S,D]) before attention and before
    the MLP, reduce_scatter(out[B,S,D]) after each. As many bytes as the two all_reduces that they stand for.

    S is padded to a multiple of T. Korthikanti et al. 2022, arXiv 2205.05198.
    """
    if plan.tp == 1:
        return []
    whole = batch * plan.tp * -(-seq // plan.tp) * shape.d_model * dtype_bytes
    return [Transfer("all_gather", "tp", whole), Transfer("reduce_scatter", "tp", whole)] * 2


def expert_exchange(shape: Shape, plan: Plan, *, tokens: int, dtype_bytes: int = 4) -> list[Transfer]:
    """One layer of experts over tokens[n,D]; which ranks hold which experts is in per_rank.expert_ranks.

    ep up to tp: the ranks of an ep group see the same tokens. Each works for its own experts, and one all_reduce over
    tp sums what all made of them; nothing is dispatched.
    ep above tp: all_to_all(dispatch), all_to_all(combine). Each of the tp ranks, which hold the same tokens, sends
    ceil(n/tp) of them, each k times, once to each of its experts: an input of ceil(n/tp) * k * D * dtype_bytes. Of it
    (T-1)/T leaves the rank (wire_bytes), exactly where every rank gets as many copies, in expectation elsewhere;
    num_bytes is the whole input and always an integer. Then tp's ranks gather their shares, or all_reduce them
    together with the shared experts' partial sums.
    Not counted: the counts that travel before ragged splits. Copies for one rank are not sent once for all of them.
    """
    hidden = tokens * shape.d_model * dtype_bytes
    reduce = [Transfer("all_reduce", "tp", hidden)] if plan.tp > 1 else []
    if plan.ep <= plan.tp or shape.moe is None:
        return reduce
    own = -(-tokens // plan.tp)
    copies = Transfer("all_to_all", "ep", own * shape.moe.experts_per_token * shape.d_model * dtype_bytes)
    gather = [Transfer("all_gather", "tp", plan.tp * own * shape.d_model * dtype_bytes)] if plan.tp > 1 else []
    return [copies, copies, *(reduce if shape.moe.num_shared else gather)]


def _check(
    shape: Shape, plan: Plan, batch: int, seq: int, dtype_bytes: int, logit_positions: int | None, stage: int
) -> int:
    """The number of positions whose logits are wanted, or ValueError naming what is wrong."""
    positions = seq if logit_positions is None else logit_positions
    for name, value in (("batch", batch), ("seq", seq), ("dtype_bytes", dtype_bytes)):
        if value < 1:
            raise ValueError(f"{name}={value}: 1 or more is needed")
    if not 1 <= positions <= seq:
        raise ValueError(f"logit_positions={logit_positions}: 1..{seq} or None for all {seq} positions")
    check_tp(shape, plan.tp)
    per_rank.expert_ranks(shape, plan)
    per_rank.stages(shape, plan.pp)
    if not 0 <= stage < plan.pp:
        raise ValueError(f"stage={stage} is not a stage of pp={plan.pp}; allowed: 0..{plan.pp - 1}")
    return positions


def _layers(
    shape: Shape,
    plan: Plan,
    attention: list[Transfer],
    batch: int,
    local_seq: int,
    dtype_bytes: int,
    positions: int,
    stage: int,
) -> list[Transfer]:
    """One stage: embedding, layers with these transfers inside attention, boundary or logits."""
    tokens = batch * local_seq
    size = tokens * shape.d_model * dtype_bytes
    reduce = [Transfer("all_reduce", "tp", size)] if plan.tp > 1 else []
    experts = expert_exchange(shape, plan, tokens=tokens, dtype_bytes=dtype_bytes)
    num_dense = shape.num_layers - shape.num_moe_layers
    sent = list(reduce) if stage == 0 else []
    for layer in per_rank.stages(shape, plan.pp)[stage]:
        sent += attention + reduce + (reduce if layer < num_dense else experts)
    if stage < plan.pp - 1:
        return [*sent, Transfer("send", "pp", size)]
    columns = plan.tp * -(-shape.vocab_size // plan.tp)
    return sent + ([Transfer("all_gather", "tp", batch * positions * columns * dtype_bytes)] if plan.tp > 1 else [])


def _kv_bytes(shape: Shape, plan: Plan, dtype_bytes: int, tp_rank: int) -> int:
    """Bytes of K and V of one token in one layer on this rank."""
    return per_rank.kv_bytes_per_token(shape, plan.tp, dtype_bytes)[tp_rank] // shape.num_layers
