"""What one layer sends: rivals for a sequence that is split (cp, and tp's own way), and experts placed on ranks (ep).

The ledger puts these into a whole forward. Each function gives one rank's transfers, in order.
"""

from __future__ import annotations

from shardlab.theory import per_rank
from shardlab.theory.degrees import Plan
from shardlab.theory.transfer import Transfer
from shardlab.theory.transformer import Shape


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


def _kv_bytes(shape: Shape, plan: Plan, dtype_bytes: int, tp_rank: int) -> int:
    """Bytes of K and V of one token in one layer on this rank."""
    return per_rank.kv_bytes_per_token(shape, plan.tp, dtype_bytes)[tp_rank] // shape.num_layers
