"""NCCL's own tuning model: the estimate by which NCCL picks an algorithm and a protocol.

T = latency + S / algbw, for each (algorithm, protocol); the least is taken. Read in NVIDIA/nccl 2.30.7,
src/graph/tuning.cc (constants in microseconds and GB/s, kept so below). It ranks algorithms; it does not promise times.

In it: ring and tree with LL, LL128 and Simple, NVLS on one node. Not in it: CollNet, PAT, NVLS across nodes (they need
the topology search's own numbers), and, in NCCL itself, send and all_to_all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shardlab.theory.cost import TimeOf

OPS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast")
PROTOCOLS = ("LL", "LL128", "Simple")

# Microseconds, protocol by protocol. NVLS knows Simple alone and has no base.
_BASE_US = {"tree": (6.8, 14.0, 8.4), "ring": (6.6, 14.0, 8.4)}
_HOP_US = {
    ("nvlink", "tree"): (0.6, 1.25, 4.0),
    ("nvlink", "ring"): (0.6, 1.9, 3.4),
    ("pcie", "tree"): (1.0, 1.9, 4.0),
    ("pcie", "ring"): (1.0, 2.5, 5.7),
    ("network", "tree"): (5.0, 8.5, 14.0),
    ("network", "ring"): (2.7, 4.0, 14.0),
}
_NVLS_US = 25.0

# GB/s on 1, 2, and 4 or more nodes. The first is of the whole bus, the others of one channel.
_RING_LL = {"ampere": (87.7, 22.5, 19.0), "hopper": (141.0, 45.0, 35.0)}
_RING_LL128 = {"ampere": (20.0, 20.0, 20.0), "hopper": (36.7, 36.7, 36.7)}
_TREE_LL128 = {"ampere": (20.0, 20.0, 20.0), "hopper": (36.7, 36.7, 29.0)}
_TREE_SIMPLE = {"ampere": (24.0, 23.6, 17.8), "hopper": (38.7, 41.4, 36.0)}

# "Trees are not perfectly sticking to the model for medium sizes": NCCL's factors for 64 B, 128 B, ... 256 MB.
_TREE_FACTORS = {
    "LL": "1 1 1 1 .9 .8 .7 .7 .7 .7 .6 .5 .4 .4 .5 .6 .7 .8 .9 1 1 1 1",
    "LL128": "1 1 1 1 1 .9 .8 .8 .8 .7 .6 .6 .6 .6 .6 .6 .8 .9 .9 .9 .9 1 1",
    "Simple": ".9 .9 .9 .9 .9 .9 .9 .8 .7 .6 .6 .5 .5 .5 .5 .6 .7 .8 .7 .7 .8 .9 .9",
}


@dataclass(frozen=True)
class System:
    """What NCCL's topology search would have found. Bandwidths of a bus: all channels together, one direction.

    bus_Bps: what a ring inside a node gets. nvls_bus_Bps: NVLS all_reduce on one node (None: no NVLink SHARP).
    network_bus_Bps: what a ring across nodes gets (None: one node only). nic_latency_s: the NIC's own, added to every
    hop across nodes, twice for Simple. network_overhead_s: the least of any hop in a ring across nodes (NCCL takes
    1 us for Intel, 2 us for AMD hosts).
    """

    name: str
    generation: Literal["ampere", "hopper"]
    gpus_per_node: int
    channels: int
    bus_Bps: float
    nvls_bus_Bps: float | None = None
    network_bus_Bps: float | None = None
    fabric: Literal["nvlink", "pcie"] = "nvlink"
    nvls_from_ranks: int = 5  # seen by stas00/ml-engineering, network/README.md: smaller groups run rings
    nic_latency_s: float = 0.0
    network_overhead_s: float = 1e-6

    def __post_init__(self) -> None:
        if self.generation not in _RING_LL:
            raise ValueError(f"generation={self.generation!r}; allowed: {', '.join(_RING_LL)}")
        if self.gpus_per_node < 1 or self.channels < 1:
            raise ValueError(f"gpus_per_node={self.gpus_per_node}, channels={self.channels}; allowed: 1 or more")
        if not self.bus_Bps > 0:
            raise ValueError(f"bus_Bps={self.bus_Bps}; allowed: above 0 bytes/s, one direction")


# The bus is set by hand, not read from a topology dump: 360 GB/s beside a measured 361 (stas00/ml-engineering), and an
# NVLS algbw of 275 GB/s, which is what a maintainer names for 8 GPUs (NVIDIA/nccl-tests, issue 212). The network: eight
# NICs of 400 Gb/s, which NCCL counts as 12 GB/s for each 100 Gb/s.
DGX_H100 = System(
    "8xH100",
    "hopper",
    gpus_per_node=8,
    channels=16,
    bus_Bps=360e9,
    nvls_bus_Bps=275e9 * 14 / 8,
    network_bus_Bps=8 * 48e9,
)


@dataclass(frozen=True)
class Estimate:
    """One candidate: seconds = latency_s + S / algbw_Bps."""

    algorithm: str
    protocol: str
    latency_s: float
    algbw_Bps: float
    num_bytes: float

    @property
    def seconds(self) -> float:
        return self.latency_s + self.num_bytes / self.algbw_Bps


def model(system: System) -> TimeOf:
    """NCCL's estimate as a TimeOf: the least over algorithms (or of one: ring, tree, nvls) and protocols.

    0 for one rank. Raises ValueError for send and all_to_all, for more nodes than the system has a network for, and
    for an algorithm that cannot run the op.
    """

    def time_s(op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None) -> float:
        if world_size == 1 and op in OPS:
            return 0.0
        return choice(system, op, num_bytes=num_bytes, world_size=world_size, algorithm=algorithm).seconds

    return time_s


def choice(system: System, op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None) -> Estimate:
    """The (algorithm, protocol) that NCCL would take: the one with the least time."""
    found = [
        one
        for one in estimates(system, op, num_bytes=num_bytes, world_size=world_size)
        if algorithm in (None, one.algorithm)
    ]
    if not found:
        raise ValueError(f"algorithm={algorithm!r} does not run {op} on {world_size} GPUs of {system.name}")
    return min(found, key=lambda one: one.seconds)


def estimates(system: System, op: str, *, num_bytes: float, world_size: int) -> list[Estimate]:
    """Every candidate for two ranks or more, rings first."""
    if op not in OPS:
        raise ValueError(f"op={op!r} is not in NCCL's model (send and all_to_all never are); allowed: {', '.join(OPS)}")
    if world_size < 2 or not num_bytes >= 0:
        raise ValueError(f"world_size={world_size}, num_bytes={num_bytes}; allowed: 2 or more, 0 or more")
    nodes = -(-world_size // system.gpus_per_node)
    if nodes > 1 and (world_size % nodes or system.network_bus_Bps is None):
        raise ValueError(
            f"world_size={world_size} on nodes of {system.gpus_per_node}; allowed: nodes filled alike, "
            "and a system with network_bus_Bps"
        )
    found = [_ring(system, op, num_bytes, world_size, nodes, protocol) for protocol in _protocols(system)]
    if op == "all_reduce":
        found += [_tree(system, num_bytes, world_size, nodes, protocol) for protocol in _protocols(system)]
    if nodes == 1 and system.nvls_bus_Bps and world_size >= system.nvls_from_ranks and op != "broadcast":
        found.append(_nvls(system, op, num_bytes, world_size))
    return found


def nvls_wire_bytes(num_bytes: float, world_size: int) -> float:
    """Bytes that a rank puts on its NVLink for an all_reduce in the switch: S + S/n (src/sym_kernels.cc).

    The switch fetches each rank's S once to add it up; each rank then sends its reduced S/n to be multicast.
    """
    return num_bytes + num_bytes / world_size if world_size > 1 else 0.0


def _ring(system: System, op: str, num_bytes: float, world_size: int, nodes: int, protocol: str) -> Estimate:
    at = PROTOCOLS.index(protocol)
    steps = _steps(op, world_size)
    inside_us, across_us = _hops_us(system, "ring", at)
    if op == "broadcast":  # chunks follow one another: one hop of latency, where in and out use the same channels
        latency_us = inside_us if nodes == 1 else across_us
    else:
        across = _steps(op, nodes) if nodes > 1 else 0
        if nodes > 1:
            inside_us = max(inside_us, system.network_overhead_s * 1e6 * (3 if protocol == "Simple" else 1))
        latency_us = (steps - across) * inside_us + across * across_us
    latency_us += _BASE_US["ring"][at]
    if nodes > 1 and op == "all_reduce" and protocol == "Simple":
        latency_us *= 1.4  # NCCL: "plateau effect of ring"
    bus = _bus_GBps(system, nodes)
    if protocol == "LL":
        bus = min(_by_nodes(_RING_LL[system.generation], nodes), 0.5 * bus)
    elif protocol == "LL128":
        one_a_node = nodes > 1 and world_size < 2 * nodes
        bus = min((0.7 if one_a_node else 0.92) * bus, _channels(system, _RING_LL128, nodes))
    return Estimate("ring", protocol, latency_us * 1e-6, bus * 1e9 * world_size / steps, num_bytes)


def _tree(system: System, num_bytes: float, world_size: int, nodes: int, protocol: str) -> Estimate:
    at = PROTOCOLS.index(protocol)
    inside_us, across_us = _hops_us(system, "tree", at)
    hops_us = (world_size // nodes - 1) * inside_us + (nodes.bit_length() - 1) * across_us
    bus = min(0.92 * _bus_GBps(system, nodes), _channels(system, _TREE_SIMPLE, nodes))
    if protocol == "LL":
        bus /= 3.8
    elif protocol == "LL128":
        bus = min(bus * (7 / 9 if nodes == 1 else 15 / 16), _channels(system, _TREE_LL128, nodes))
    octave = (int(num_bytes) >> 6).bit_length() - 1
    factors = _TREE_FACTORS[protocol].split()
    if 0 <= octave < len(factors):
        bus *= float(factors[octave])
    return Estimate("tree", protocol, (_BASE_US["tree"][at] + 2 * hops_us) * 1e-6, 0.5 * bus * 1e9, num_bytes)


def _nvls(system: System, op: str, num_bytes: float, world_size: int) -> Estimate:
    assert system.nvls_bus_Bps is not None
    bus = system.nvls_bus_Bps
    if op != "all_reduce":  # half of it: the switch either adds or multicasts, and a rank's own share stays
        bus *= 0.5 * (world_size - 1) / world_size
    return Estimate("nvls", "Simple", _NVLS_US * 1e-6, bus * world_size / _steps(op, world_size), num_bytes)


def _steps(op: str, count: int) -> int:
    if op == "all_reduce":
        return 2 * (count - 1)
    return count - 1 if op in ("all_gather", "reduce_scatter") else count


def _protocols(system: System) -> tuple[str, ...]:
    return PROTOCOLS if system.fabric == "nvlink" else ("LL", "Simple")  # LL128 needs NVLink's store order


def _hops_us(system: System, algorithm: str, at: int) -> tuple[float, float]:
    across = _HOP_US["network", algorithm][at] + system.nic_latency_s * 1e6 * (2 if PROTOCOLS[at] == "Simple" else 1)
    return _HOP_US[system.fabric, algorithm][at], across


def _bus_GBps(system: System, nodes: int) -> float:
    bus = system.bus_Bps if nodes == 1 else min(system.bus_Bps, system.network_bus_Bps or 0.0)
    return bus / 1e9


def _by_nodes(values: tuple[float, float, float], nodes: int) -> float:
    return values[min(nodes, 3) - 1]


def _channels(system: System, table: dict[str, tuple[float, float, float]], nodes: int) -> float:
    return system.channels * _by_nodes(table[system.generation], nodes)
