"""What a collective takes on a cluster of the catalogue, inside a node, across nodes, or over both."""

from __future__ import annotations

from dataclasses import replace

from shardlab.theory import composite, nccl
from shardlab.theory.cost import TimeOf, of_link
from shardlab.theory.hardware import Cluster, Link
from shardlab.theory.plan.links import LevelTime

# A call's own price before its first hop: NCCL's base latency of a ring with LL (NVIDIA/nccl src/graph/tuning.cc).
CALL_S = 6.6e-6
# Accelerators that NCCL's model is written out for: the H200 has the H100's links.
HOPPER = ("h100_sxm", "h200_sxm")


def on_cluster(cluster: Cluster) -> LevelTime:
    """The times of `inside` where all ranks are on one node, of `across` where each has its own, or both in turn."""
    return by_level(inside(cluster), across(cluster))


def inside(cluster: Cluster) -> TimeOf:
    """One node: NCCL's estimate on Hopper for the ops that it has, else CALL_S and the link's alpha-beta line."""
    if cluster.node.accelerator.name not in HOPPER:
        return _line(cluster.link("node"))
    return _estimate(nccl.DGX_H100, cluster.link("node"))


def across(cluster: Cluster) -> TimeOf:
    """One rank a node, with its own share of the node's ports: the same over the network."""
    network = cluster.link("network")
    if cluster.node.accelerator.name not in HOPPER:
        return _line(network)
    bus_Bps = min(nccl.DGX_H100.bus_Bps, network.bandwidth_Bps)
    return _estimate(replace(nccl.DGX_H100, gpus_per_node=1, network_bus_Bps=bus_Bps), network)


def by_level(inside: TimeOf, across: TimeOf) -> LevelTime:
    """Seconds of a collective over both levels, from what it takes on each (theory.composite).

    all_reduce: reduce_scatter inside, all_reduce of the slice across, all_gather inside. all_gather: of the slices
    across, then of everything inside; reduce_scatter the other way round. all_to_all: what stays in a node and what
    leaves it travel at once. broadcast: across, then inside. send: across where there are several nodes.
    """

    def level_time(op: str, *, num_bytes: float, ranks_per_node: int, num_nodes: int) -> float:
        if num_nodes == 1:
            return inside(op, num_bytes=num_bytes, world_size=ranks_per_node)
        if op == "send":
            return across(op, num_bytes=num_bytes, world_size=2)
        sizes = {"ranks_per_node": ranks_per_node, "num_nodes": num_nodes}
        if op == "all_reduce":
            return composite.hierarchical_all_reduce_s(num_bytes, **sizes, inside=inside, across=across)
        if op == "all_to_all":
            return composite.expert_all_to_all_s(
                1, experts_per_token=1, token_bytes=num_bytes, **sizes, inside=inside, across=across
            ).lower_s
        slices = num_bytes if op == "broadcast" else num_bytes / ranks_per_node
        return across(op, num_bytes=slices, world_size=num_nodes) + inside(
            op, num_bytes=num_bytes, world_size=ranks_per_node
        )

    return level_time


def _estimate(system: nccl.System, link: Link) -> TimeOf:
    model, line = nccl.model(system), _line(link)

    def time_s(op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None) -> float:
        priced = model if op in nccl.OPS else line
        return priced(op, num_bytes=num_bytes, world_size=world_size, algorithm=algorithm)

    return time_s


def _line(link: Link) -> TimeOf:
    line = of_link(link)

    def time_s(op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None) -> float:
        if world_size == 1:
            return 0.0
        return CALL_S + line(op, num_bytes=num_bytes, world_size=world_size, algorithm=algorithm)

    return time_s
