"""What the graph of a machine holds, and how to ask it.

Nodes are strings; every node has a `kind`:

| kind          | node          | more attributes                                                                  |
|---------------|---------------|----------------------------------------------------------------------------------|
| `gpu`         | `gpu:0`       | index (NVML's order, by PCI bus), name, memory_bytes, pci                        |
| `nvswitch`    | `nvswitch`    | pci, the addresses of the switches that form this one plane (empty where hidden) |
| `ib`          | `ib:mlx5_0:1` | name, state, link_layer, bandwidth_Bps of the port, one way                      |
| `net`         | `net:eth0`    | name, state, virtual, bandwidth_Bps of the port, one way                         |
| `loopback`    | `net:lo`      | name, state                                                                      |
| `pcie_switch` | PCI address   | pci, of its upstream port; above, as devices have it                             |
| `pcie_root`   | `pci0000:00`  |                                                                                  |
| `numa`        | `numa:0`      | index, cpus, memory_bytes                                                        |
| `socket`      | `socket:0`    | index                                                                            |
| `core`        | `core:0`      | index (its first CPU), cpus, caches (nodes, the nearest first), socket, numa     |
| `cache`       | `l2:0`        | level, type, size_bytes, cores (how many share it)                               |

Devices on PCIe (gpu, ib, net) also say where they hang: switches (outermost first), root, numa, and
`above`, the other end of their pcie edge. Without a known place these are () and None.
Edges have a `kind` (nvlink, pcie, root, numa, socket, cache) and `bandwidth_Bps`, one way, None where it is not known.
`pcie` edges have gen, width, max_gen, max_width; `nvlink` edges links, version, line_Bps; `numa` edges distance.
graph.graph has "gpus": why there are none, or "".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import networkx as nx

from shardlab.theory.units import bandwidth_text, bytes_text


def of_kind(graph: nx.Graph, *kinds: str) -> list[str]:
    """The nodes of these kinds, in the order in which they were read."""
    return [node for node, kind in graph.nodes(data="kind") if kind in kinds]


def edges_of_kind(graph: nx.Graph, kind: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(node, node, attributes) of the edges of one kind."""
    return [(a, b, edge) for a, b, edge in graph.edges(data=True) if edge["kind"] == kind]


def ports(graph: nx.Graph) -> list[str]:
    """InfiniBand ports, then the network interfaces with a wire that are not a second face of such a port."""
    infiniband = of_kind(graph, "ib")
    taken = {graph.nodes[port]["pci"] for port in infiniband} - {None}
    wired = [net for net in of_kind(graph, "net") if not graph.nodes[net]["virtual"]]
    return infiniband + [net for net in wired if graph.nodes[net]["pci"] not in taken]


def in_order(nodes: Iterable[str], graph: nx.Graph) -> list[str]:
    """Nodes sorted by their index."""
    return sorted(nodes, key=lambda node: graph.nodes[node]["index"])


def size_text(num_bytes: float) -> str:
    """bytes_text without the zeros behind the point: 32768 -> '32 KiB'."""
    return _trim(bytes_text(num_bytes))


def rate_text(bandwidth_Bps: float | None) -> str:
    """63015384615 -> '63 GB/s'; None -> 'speed not known'."""
    return "speed not known" if bandwidth_Bps is None else _trim(bandwidth_text(bandwidth_Bps))


def pcie_text(edge: dict[str, Any]) -> str:
    """'PCIe 5.0 x16' of an edge, as far as its generation and width are known."""
    gen, width = edge["used_gen"], edge["width"] or edge["max_width"]
    return "PCIe" + (f" {gen}.0" if gen else "") + (f" x{width}" if width else "")


def nvlink_text(edge: dict[str, Any]) -> str:
    """'NVLink 4.0, 18 links'."""
    version = f" {edge['version']}" if edge["version"] else ""
    return f"NVLink{version}, {edge['links']} {'link' if edge['links'] == 1 else 'links'}"


def ranges_text(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> '0-2, 5'."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _trim(text: str) -> str:
    number, unit = text.split()
    return f"{float(number.replace(',', '')):g} {unit}"
