"""The tree of PCIe: roots, switches and the links between them, from /sys/bus/pci.

A PCI address like 0000:18:00.0 is a link in /sys/bus/pci/devices into /sys/devices, and the folders on the way are the
bridges above the device. A root port belongs to the processor. A switch shows as two bridges, its upstream port and a
downstream port, so every second bridge on the way is one switch.
"""

from __future__ import annotations

import re
from typing import Any

import networkx as nx

from shardlab.topology.graph import of_kind
from shardlab.topology.sysfs import Sysfs

_ADDRESS = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.IGNORECASE)
_GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
# Bytes/s of one lane, one way: transfers/s x the share that the code on the wire leaves / 8. The shares are those of
# PCIE_SPEED2MBS_ENC in the Linux kernel's drivers/pci/pci.h. Packet headers take more; nothing here knows how much.
_LANE_Bps = {
    1: 2.5e9 * 8 / 10 / 8,
    2: 5e9 * 8 / 10 / 8,
    3: 8e9 * 128 / 130 / 8,
    4: 16e9 * 128 / 130 / 8,
    5: 32e9 * 128 / 130 / 8,
    6: 64e9 / 8,
}


def address_in(text: str) -> str | None:
    """A PCI address as sysfs spells it: NVML's '00000000:1B:00.0' -> '0000:1b:00.0'. None for anything else."""
    match = _ADDRESS.fullmatch(text.strip())
    if not match:
        return None
    domain = int(match[1], 16)
    return f"{domain:04x}:{match[2]}:{match[3]}.{match[4]}".lower()


def bandwidth_Bps(gen: int | None, width: int | None) -> float | None:
    """One way, after the line code: generation 5 on 16 lanes is 63.0e9 bytes/s. None where either is not known."""
    return _LANE_Bps[gen] * width if gen in _LANE_Bps and width else None


def pcie_edge(
    gen: int | None, width: int | None, max_gen: int | None, max_width: int | None, *, rests: bool = False
) -> dict[str, Any]:
    """Attributes of a pcie edge. A GPU that `rests` has turned its link down, and turns it up for work.

    So its bandwidth is that of the highest generation which both ends can do; other links count as they are now.
    """
    used = (max_gen or gen) if rests else (gen or max_gen)
    return {
        "kind": "pcie",
        "gen": gen,
        "width": width,
        "max_gen": max_gen,
        "max_width": max_width,
        "used_gen": used,
        "bandwidth_Bps": bandwidth_Bps(used, width or max_width),
    }


def attach(graph: nx.Graph, sysfs: Sysfs, node: str, address: str | None, known: dict[str, Any] | None = None) -> bool:
    """Join `node`, the device at `address`, to its switches, root and NUMA node. False where /sys does not show it.

    known: gen, width, max_gen, max_width that another source gave, for what sysfs does not say.
    """
    graph.nodes[node].update(switches=(), root=None, numa=None, above=None)
    path = sysfs.target(f"sys/bus/pci/devices/{address}") if address else ()
    start = next((at for at, part in enumerate(path) if re.fullmatch(r"pci[0-9a-f]+:[0-9a-f]+", part)), None)
    if start is None:
        return False
    root, places = path[start], list(path[start + 1 :])
    switches = tuple(places[1:-1:2])
    numa = _numa(graph, sysfs, places)
    graph.nodes[node].update(switches=switches, root=root, numa=numa)
    if root not in graph:
        graph.add_node(root, kind="pcie_root")
    if numa and not any(graph.nodes[near]["kind"] == "numa" for near in graph[root]):
        graph.add_edge(root, numa, kind="root", bandwidth_Bps=None)
    above = root
    for switch in switches:
        if switch not in graph:
            graph.add_node(switch, kind="pcie_switch", pci=switch, above=above)
        graph.add_edge(above, switch, **_link(sysfs, places, places.index(switch), {}, rests=False))
        above = switch
    graph.nodes[node]["above"] = above
    is_gpu = graph.nodes[node]["kind"] == "gpu"
    graph.add_edge(above, node, **_link(sysfs, places, len(places) - 1, known or {}, rests=is_gpu))
    return True


def _link(sysfs: Sysfs, places: list[str], at: int, known: dict[str, Any], *, rests: bool) -> dict[str, Any]:
    """The link above places[at]: the lower end knows its speed now, and both ends what they can do at most."""
    lower, ends = places[at], places[max(at - 1, 0) : at + 1]
    gen = _generation(sysfs, lower, "current") or known.get("gen")
    width = _width(sysfs, lower, "current") or known.get("width")
    max_gens = [found for end in ends if (found := _generation(sysfs, end, "max"))] or [known.get("max_gen")]
    max_widths = [found for end in ends if (found := _width(sysfs, end, "max"))] or [known.get("max_width")]
    return pcie_edge(gen, width, _least(max_gens), _least(max_widths), rests=rests)


def _least(values: list[int | None]) -> int | None:
    return min((value for value in values if value), default=None)


def _generation(sysfs: Sysfs, address: str, which: str) -> int | None:
    """'32.0 GT/s PCIe' -> 5. Older kernels write '8 GT/s', and 'Unknown' where they do not know."""
    match = re.match(r"([\d.]+) GT/s", sysfs.text(f"sys/bus/pci/devices/{address}/{which}_link_speed") or "")
    return _GENERATIONS.get(float(match[1])) if match else None


def _width(sysfs: Sysfs, address: str, which: str) -> int | None:
    width = sysfs.number(f"sys/bus/pci/devices/{address}/{which}_link_width")
    return width if width and width <= 32 else None  # 0, 63 and 255 mean that there is no link, or no answer


def _numa(graph: nx.Graph, sysfs: Sysfs, places: list[str]) -> str | None:
    """The NUMA node of a device. -1 says that the firmware did not tell; then the only one there is must be it."""
    for place in reversed(places):
        index = sysfs.number(f"sys/bus/pci/devices/{place}/numa_node")
        if index is not None and f"numa:{index}" in graph:
            return f"numa:{index}"
    nodes = of_kind(graph, "numa")
    return nodes[0] if len(nodes) == 1 else None
