"""Costs that add up from simple ones: pure functions over what a collective takes inside a node and across nodes.

Each takes a TimeOf for a level of links (theory.cost): a link, NCCL's model or a fitted model. num_bytes is one rank's
tensor throughout.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from shardlab.theory.collectives import wire_bytes
from shardlab.theory.cost import TimeOf


class Bounds(NamedTuple):
    """Seconds with everything that can run at the same time hidden (T_lower), and with nothing hidden (T_upper)."""

    lower_s: float
    upper_s: float


class Levels(NamedTuple):
    """Bytes that one rank sends to ranks of its node, and to other nodes."""

    inside: float
    across: float


def hierarchical_all_reduce_s(
    num_bytes: float, *, ranks_per_node: int, num_nodes: int, inside: TimeOf, across: TimeOf
) -> float:
    """Seconds: reduce_scatter inside the node, all_reduce of the slice across nodes, all_gather inside.

    Each of a node's g ranks carries its own S/g across, so a node's ports share the work. With one rank a node only
    the middle is left; with one node the halves, which are an all_reduce (Rabenseifner; Thakur, Rabenseifner, Gropp
    2005).
    """
    _check(num_bytes, ranks_per_node=ranks_per_node, num_nodes=num_nodes)
    return (
        inside("reduce_scatter", num_bytes=num_bytes, world_size=ranks_per_node)
        + across("all_reduce", num_bytes=num_bytes / ranks_per_node, world_size=num_nodes)
        + inside("all_gather", num_bytes=num_bytes, world_size=ranks_per_node)
    )


def hierarchical_all_reduce_bytes(num_bytes: float, *, ranks_per_node: int, num_nodes: int) -> Levels:
    """Bytes that one rank sends: 2 S (g-1)/g inside, and 2 S (N-1) / (g N) across, by rings."""
    _check(num_bytes, ranks_per_node=ranks_per_node, num_nodes=num_nodes)
    halves = (wire_bytes(op, num_bytes=num_bytes, world_size=ranks_per_node) for op in ("reduce_scatter", "all_gather"))
    return Levels(
        inside=sum(halves),
        across=wire_bytes("all_reduce", num_bytes=num_bytes / ranks_per_node, world_size=num_nodes),
    )


def copies_leaving(num_experts: int, experts_per_token: int, num_groups: int) -> float:
    """Copies of one token that leave its group (a rank, or a node), one for each chosen expert: k (G-1)/G.

    Routing is uniform, and experts are spread evenly. With one copy for each expert this is what all_to_all carries.
    """
    _check_experts(num_experts, experts_per_token, num_groups)
    return experts_per_token * (num_groups - 1) / num_groups


def groups_reached(num_experts: int, experts_per_token: int, num_groups: int) -> float:
    """Other groups that one token must reach: the copies that leave where each group gets one, for all its experts.

    A group of E/G experts is spared with probability C(E - E/G, k) / C(E, k), k distinct experts being drawn from E.
    """
    _check_experts(num_experts, experts_per_token, num_groups)
    rest = num_experts - num_experts // num_groups
    spared = math.comb(rest, experts_per_token) / math.comb(num_experts, experts_per_token)
    return (num_groups - 1) * (1 - spared)


def token_leaves(num_experts: int, experts_per_token: int, num_groups: int) -> float:
    """Probability that at least one copy of a token leaves its group."""
    _check_experts(num_experts, experts_per_token, num_groups)
    own = num_experts // num_groups
    return 1 - math.comb(own, experts_per_token) / math.comb(num_experts, experts_per_token)


def expert_all_to_all_s(
    tokens: int,
    *,
    experts_per_token: int,
    token_bytes: float,
    ranks_per_node: int,
    num_nodes: int,
    inside: TimeOf,
    across: TimeOf,
) -> Bounds:
    """Seconds of one dispatch (or one combine) of `tokens` tokens a rank, one copy for each chosen expert.

    The copies, k * tokens * token_bytes, spread evenly over the ranks: 1/N of them stay in the node and go over its
    own links, the rest over the network. The two levels are different wires: at best they run together (lower_s), at
    worst one after the other (upper_s). A skewed routing costs more: the busiest rank's share decides.
    """
    _check(token_bytes, ranks_per_node=ranks_per_node, num_nodes=num_nodes, experts_per_token=experts_per_token)
    if tokens < 0:
        raise ValueError(f"tokens={tokens}; allowed: 0 or more")
    copies_bytes = tokens * experts_per_token * token_bytes
    near_s = inside("all_to_all", num_bytes=copies_bytes / num_nodes, world_size=ranks_per_node)
    far_s = across("all_to_all", num_bytes=copies_bytes, world_size=num_nodes)
    return Bounds(max(near_s, far_s), near_s + far_s)


def expert_layer_s(dispatch: Bounds, combine: Bounds, experts_s: float) -> float:
    """Seconds of a MoE layer's exchange with nothing overlapped but the two levels: dispatch, experts, combine."""
    return dispatch.lower_s + experts_s + combine.lower_s


def ring_attention_s(compute_s: float, *, kv_bytes: float, world_size: int, send: TimeOf) -> float:
    """Seconds of ring attention: T - 1 steps of max(T_comp, T_comm), then the last compute, which sends nothing.

    compute_s: one rank's attention against one chunk of keys and values. kv_bytes: that chunk, K and V together. While
    a chunk is computed on, it is already on its way to the next rank (Liu, Zaharia, Abbeel 2023, arXiv 2310.01889).
    """
    _check(kv_bytes, world_size=world_size)
    if not compute_s >= 0:
        raise ValueError(f"compute_s={compute_s}; allowed: 0 or more seconds")
    transfer_s = send("send", num_bytes=kv_bytes, world_size=2)
    return (world_size - 1) * max(compute_s, transfer_s) + compute_s


def pipeline_hop_s(num_bytes: float, *, tp: int, across: TimeOf, inside: TimeOf | None = None) -> float:
    """Seconds for activations to pass one stage boundary, where every tp rank holds the same num_bytes.

    inside=None: each tp rank sends the whole tensor to its partner, tp times the bytes that are needed. With `inside`,
    each sends its slice and the receivers all_gather (Narayanan et al. 2021, Megatron-LM's scatter/gather).
    """
    _check(num_bytes, tp=tp)
    if inside is None:
        return across("send", num_bytes=num_bytes, world_size=2)
    sliced_s = across("send", num_bytes=num_bytes / tp, world_size=2)
    return sliced_s + inside("all_gather", num_bytes=num_bytes, world_size=tp)


def pipeline_s(stage_s: float, *, num_stages: int, hop_s: float, num_microbatches: int = 1) -> float:
    """Seconds from the first microbatch's start to the last one's end: (m + P - 1) stages and P - 1 hops.

    Stages are alike, and a hop runs beside the next microbatch's compute. One microbatch gains nothing from stages.
    """
    _check(0.0, num_stages=num_stages, num_microbatches=num_microbatches)
    slots = num_microbatches + num_stages - 1
    return slots * stage_s + (num_stages - 1) * hop_s


def _check(num_bytes: float, **counts: int) -> None:
    if not num_bytes >= 0:
        raise ValueError(f"num_bytes={num_bytes}; allowed: 0 or more")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count}; allowed: 1 or more")


def _check_experts(num_experts: int, experts_per_token: int, num_groups: int) -> None:
    _check(0.0, num_experts=num_experts, experts_per_token=experts_per_token, num_groups=num_groups)
    if experts_per_token > num_experts:
        raise ValueError(f"experts_per_token={experts_per_token}; allowed: at most num_experts={num_experts}")
    if num_experts % num_groups:
        raise ValueError(f"num_experts={num_experts} over num_groups={num_groups}; allowed: a divisor of num_experts")
