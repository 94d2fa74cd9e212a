"""What a plan must send: the exact list of transfers that each rank records, from the model's shape alone.

`of_rank` is one forward and `generation` a prompt and its answer, both for a global rank of the plan and a batch that
dp divides among the replicas. `forward` and `decode_step` are their parts: one replica, one stage. What a single layer
sends is counted in layer_messages, and named here too. Transfers over pp say whom they go to or come from (`route`).
"""

from __future__ import annotations

from shardlab.theory import per_rank
from shardlab.theory.degrees import Plan, coordinates
from shardlab.theory.layer_messages import (
    expert_exchange,
    merge_attention,
    ring_attention,
    sequence_parallel,
    ulysses,
    ulysses_fused,
)
from shardlab.theory.split import check_tp, even_split
from shardlab.theory.traffic import Route
from shardlab.theory.transfer import Transfer, sent_bytes
from shardlab.theory.transformer import Shape

__all__ = [
    "Transfer",
    "decode_step",
    "expert_exchange",
    "forward",
    "generation",
    "merge_attention",
    "of_rank",
    "ring_attention",
    "sent_bytes",
    "sequence_parallel",
    "ulysses",
    "ulysses_fused",
]

TOKEN_BYTES = 8  # a chosen token travels as int64


def of_rank(
    shape: Shape,
    plan: Plan,
    rank: int,
    *,
    batch: int,
    seq: int,
    dtype_bytes: int = 4,
    logit_positions: int | None = None,
) -> list[Transfer]:
    """tokens[B,S] -> logits[B,P,V]: the transfers that global rank `rank` records, in order.

    `batch` counts the sequences of all replicas, which dp splits as evenly as they go: 5 on dp=3 are 2, 2 and 1. A
    replica that gets none sends nothing. A send is recorded by its sender alone. The rest is `forward`.
    Raises ValueError for a rank outside the plan, sizes below 1, and degrees that the shape does not allow.
    """
    _check(shape, plan, batch, seq, dtype_bytes, logit_positions)
    rows, where = _place(plan, rank, batch)
    if rows == 0:
        return []
    sizes = {"batch": rows, "seq": seq, "dtype_bytes": dtype_bytes, "logit_positions": logit_positions}
    return forward(shape, plan, **sizes, **where)


def generation(
    shape: Shape, plan: Plan, rank: int, *, batch: int, prompt: int, new_tokens: int, dtype_bytes: int = 4
) -> list[Transfer]:
    """prompt[B,S] -> new tokens[B,n]: the transfers that global rank `rank` records, in order.

    The prompt's forward with the logits of its last position, then n-1 decode steps. The ranks that hold the logits
    choose, and after each token the last stage tells the others: broadcast(tokens[B_dp]) over pp, int64. Under tp every
    rank of that stage has the logits and chooses the same token, so nothing more is sent.
    Raises ValueError as of_rank does, and for fewer than one new token.
    """
    if new_tokens < 1:
        raise ValueError(f"new_tokens={new_tokens}: 1 or more is needed")
    sent = of_rank(shape, plan, rank, batch=batch, seq=prompt, dtype_bytes=dtype_bytes, logit_positions=1)
    rows, where = _place(plan, rank, batch)
    if rows == 0:
        return []
    step = decode_step(shape, plan, batch=rows, dtype_bytes=dtype_bytes, **where)
    back = Transfer("broadcast", "pp", rows * TOKEN_BYTES, route=Route(peer=plan.pp - 1))
    chosen = [back] if plan.pp > 1 else []
    return sent + chosen + (step + chosen) * (new_tokens - 1)


def _place(plan: Plan, rank: int, batch: int) -> tuple[int, dict[str, int]]:
    """The sequences that this rank's replica gets, and the rank's stage and tp_rank."""
    place = coordinates(rank, plan)
    return len(even_split(batch, plan.dp)[place["dp"]]), {"stage": place["pp"], "tp_rank": place["tp"]}


# ------------------------------------------------------------------------------------ one replica, one stage


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
    """tokens[B,S] -> logits[B,P,V] in one replica: the transfers of one rank of pipeline stage `stage`, in order.

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


def _check(
    shape: Shape, plan: Plan, batch: int, seq: int, dtype_bytes: int, logit_positions: int | None, stage: int = 0
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
        return [*sent, Transfer("send", "pp", size, route=Route(peer=stage + 1))]
    columns = plan.tp * -(-shape.vocab_size // plan.tp)
    return sent + ([Transfer("all_gather", "tp", batch * positions * columns * dtype_bytes)] if plan.tp > 1 else [])
