"""Network interfaces and InfiniBand ports, from /sys/class/net and /sys/class/infiniband."""

from __future__ import annotations

import re

import networkx as nx

from shardlab.topology.pci import address_in, attach
from shardlab.topology.sysfs import Sysfs

_INFINIBAND = "sys/class/infiniband"
_NET = "sys/class/net"


def add_network(graph: nx.Graph, sysfs: Sysfs) -> None:
    """Add ib, net and loopback nodes; those with a wire are joined to PCIe. A virtual one has no edge."""
    for device in sysfs.names(_INFINIBAND):
        for port in sysfs.names(f"{_INFINIBAND}/{device}/ports", r"\d+"):
            _add_port(graph, sysfs, device, port)
    for name in sysfs.names(_NET):
        if sysfs.target(f"{_NET}/{name}"):  # bonding_masters is a file beside the interfaces
            _add_interface(graph, sysfs, name)


def _add_port(graph: nx.Graph, sysfs: Sysfs, device: str, port: str) -> None:
    folder = f"{_INFINIBAND}/{device}/ports/{port}"
    state = (sysfs.text(f"{folder}/state") or "").partition(": ")[2] or None  # '4: ACTIVE'
    rate = re.match(r"([\d.]+) Gb/sec", sysfs.text(f"{folder}/rate") or "")  # '400 Gb/sec (4X NDR)'
    pci = _pci(sysfs, f"{_INFINIBAND}/{device}")
    node = f"ib:{device}:{port}"
    graph.add_node(
        node,
        kind="ib",
        name=device if len(sysfs.names(f"{_INFINIBAND}/{device}/ports")) == 1 else f"{device}:{port}",
        state=state.lower() if state else None,
        link_layer=sysfs.text(f"{folder}/link_layer"),
        # a port that is down reports the slowest rate there is
        bandwidth_Bps=float(rate[1]) * 1e9 / 8 if rate and state == "ACTIVE" else None,
        pci=pci,
    )
    attach(graph, sysfs, node, pci)


def _add_interface(graph: nx.Graph, sysfs: Sysfs, name: str) -> None:
    node = f"net:{name}"
    state = sysfs.text(f"{_NET}/{name}/operstate")
    if name == "lo":
        graph.add_node(node, kind="loopback", name=name, state=state)
        return
    speed = sysfs.number(f"{_NET}/{name}/speed")  # Mb/s; -1 where the driver does not know
    pci = _pci(sysfs, f"{_NET}/{name}")
    graph.add_node(
        node,
        kind="net",
        name=name,
        state=state,
        virtual="virtual" in sysfs.target(f"{_NET}/{name}"),
        bandwidth_Bps=speed * 1e6 / 8 if speed and speed > 0 else None,
        pci=pci,
    )
    attach(graph, sysfs, node, pci)


def _pci(sysfs: Sysfs, folder: str) -> str | None:
    """The PCI device that carries it: the last PCI address on the way (a virtio device hangs one step below)."""
    addresses = [found for part in sysfs.target(f"{folder}/device") if (found := address_in(part))]
    return addresses[-1] if addresses else None
