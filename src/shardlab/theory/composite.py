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
