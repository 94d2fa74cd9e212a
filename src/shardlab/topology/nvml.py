"""GPUs and NVLink, from NVIDIA's management library (nvidia-ml-py, imported as pynvml).

Written from the functions' documentation (docs.nvidia.com/deploy/nvml-api) and from how NCCL reads them, and tested
against a made-up library: no GPU was at hand. GPUs have NVML's numbers, which follow the PCI bus; CUDA's may differ
(CUDA_DEVICE_ORDER, CUDA_VISIBLE_DEVICES). Grace's C2C link is not read.
"""

from __future__ import annotations

from typing import Any

import networkx as nx

from shardlab.topology.cpu import numa_of_cpu
from shardlab.topology.graph import of_kind
from shardlab.topology.pci import address_in, attach, pcie_edge
from shardlab.topology.sysfs import Sysfs

# Bytes/s that one NVLink carries one way, by version: a GPU's bandwidth over its links in the table NVLink of
# https://github.com/stas00/ml-engineering network/README.md (NVLink 4: 450 GB/s over 18 links).
_LINK_Bps = {1: 20e9, 2: 25e9, 3: 25e9, 4: 25e9, 5: 50e9}


class Library:
    """NVML with every refusal turned into None: not supported, not permitted, not in this version, not there."""

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml

    def __call__(self, function: str, *args: Any) -> Any:
        try:
            return getattr(self.nvml, function)(*args)
        except (self.nvml.NVMLError, AttributeError):
            return None

    def constant(self, name: str) -> Any:
        return getattr(self.nvml, name, None)


def add_gpus(graph: nx.Graph, sysfs: Sysfs, nvml: Any) -> None:
    """Add gpu nodes, the plane of NVSwitches, nvlink edges, and the places of the GPUs on PCIe.

    nvml: the module pynvml, or something with the same functions. Needs the numa nodes in the graph.
    """
    graph.graph.update(gpus="")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        graph.graph["gpus"] = str(error)
        return
    try:
        library = Library(nvml)
        handles = [library("nvmlDeviceGetHandleByIndex", i) for i in range(library("nvmlDeviceGetCount") or 0)]
        handles = [handle for handle in handles if handle is not None]
        for index, handle in enumerate(handles):
            _add_gpu(graph, sysfs, library, index, handle)
        for index, handle in enumerate(handles):
            _add_nvlinks(graph, library, index, handle)
        graph.graph["gpus"] = "" if handles else "the NVIDIA driver shows none"
    finally:
        nvml.nvmlShutdown()


def _add_gpu(graph: nx.Graph, sysfs: Sysfs, library: Library, index: int, handle: Any) -> None:
    node = f"gpu:{index}"
    memory = library("nvmlDeviceGetMemoryInfo", handle)
    pci = _address(library("nvmlDeviceGetPciInfo", handle))
    graph.add_node(
        node,
        kind="gpu",
        index=index,
        name=library("nvmlDeviceGetName", handle),
        memory_bytes=int(memory.total) if memory else None,
        pci=pci,
    )
    link = {
        "gen": library("nvmlDeviceGetCurrPcieLinkGeneration", handle),
        "width": library("nvmlDeviceGetCurrPcieLinkWidth", handle),
        "max_gen": library("nvmlDeviceGetMaxPcieLinkGeneration", handle),
        "max_width": library("nvmlDeviceGetMaxPcieLinkWidth", handle),
    }
    if attach(graph, sysfs, node, pci, link):
        return
    numa = _numa(graph, library, handle)
    if numa:  # /sys does not show the way (a container), the driver still knows the CPUs that are near
        graph.nodes[node].update(numa=numa, above=numa)
        graph.add_edge(node, numa, **pcie_edge(**link, rests=True))


def _add_nvlinks(graph: nx.Graph, library: Library, index: int, handle: Any) -> None:
    node = f"gpu:{index}"
    gpu_at = {graph.nodes[gpu]["pci"]: gpu for gpu in of_kind(graph, "gpu") if graph.nodes[gpu]["pci"]}
    for link in range(library.constant("NVML_NVLINK_MAX_LINKS") or 18):
        if library("nvmlDeviceGetNvLinkState", handle, link) != 1:  # 1: NVML_FEATURE_ENABLED
            continue
        remote = _address(library("nvmlDeviceGetNvLinkRemotePciInfo", handle, link))
        other = gpu_at.get(remote)
        if other is None:
            other = _switch_plane(graph, library, handle, link, remote)
        if other is None or (other in gpu_at.values() and graph.nodes[other]["index"] <= index):
            continue  # every link between two GPUs is seen from both: the lower number counts it
        if not graph.has_edge(node, other):
            graph.add_edge(node, other, kind="nvlink", links=0, version=None, line_Bps=0.0, bandwidth_Bps=0.0)
        _count(graph.edges[node, other], _version(library, handle, link), _line_Bps(library, handle, link))


def _switch_plane(graph: nx.Graph, library: Library, handle: Any, link: int, remote: str | None) -> str | None:
    """The node of all NVSwitches together: a GPU spreads its links over them and reaches any other GPU with all.

    A partner that is no GPU and that this machine cannot see is taken for a switch, as NCCL takes it.
    """
    kind = library("nvmlDeviceGetNvLinkRemoteDeviceType", handle, link)
    others = ("NVML_NVLINK_DEVICE_TYPE_GPU", "NVML_NVLINK_DEVICE_TYPE_IBMNPU")
    if kind is not None and kind in map(library.constant, others):
        return None  # a GPU that this process may not see, or a POWER processor
    if "nvswitch" not in graph:
        graph.add_node("nvswitch", kind="nvswitch", pci=())
    known = graph.nodes["nvswitch"]["pci"]
    if remote and remote not in known and not remote.startswith("fff"):
        graph.nodes["nvswitch"]["pci"] = (*known, remote)
    return "nvswitch"


def _count(edge: dict[str, Any], version: tuple[int, int] | None, line_Bps: float | None) -> None:
    """One more link. It carries what its version promises, and never more than its line: NVML gives the rate of the
    bare line (26.6 GB/s for NVLink 4's 25), and some boards run their links slower than the version could.
    """
    promised = _LINK_Bps.get(version[0]) if version else None
    carried = min((rate for rate in (promised, line_Bps) if rate), default=None)
    edge["links"] += 1
    edge["version"] = f"{version[0]}.{version[1]}" if version else edge["version"]
    edge["line_Bps"] = edge["line_Bps"] + line_Bps if line_Bps and edge["line_Bps"] is not None else None
    edge["bandwidth_Bps"] = edge["bandwidth_Bps"] + carried if carried and edge["bandwidth_Bps"] is not None else None


def _version(library: Library, handle: Any, link: int) -> tuple[int, int] | None:
    """NVML numbers the versions on its own (6 is 4.0): its names tell which is which."""
    number = library("nvmlDeviceGetNvLinkVersion", handle, link)
    for major in range(1, 10):
        for minor in range(5):
            if number and library.constant(f"NVML_NVLINK_VERSION_{major}_{minor}") == number:
                return major, minor
    return None


def _line_Bps(library: Library, handle: Any, link: int) -> float | None:
    """The line's rate one way. NVML says it in MB/s (1e6), a link's number is the scope of the field."""
    field = library.constant("NVML_FI_DEV_NVLINK_GET_SPEED")
    values = library("nvmlDeviceGetFieldValues", handle, [(field, link)]) if field else None
    if not values or values[0].nvmlReturn != 0 or not values[0].value.uiVal:
        return None
    return values[0].value.uiVal * 1e6


def _numa(graph: nx.Graph, library: Library, handle: Any) -> str | None:
    cpus = [cpu for node in of_kind(graph, "numa") for cpu in graph.nodes[node]["cpus"]]
    words = library("nvmlDeviceGetCpuAffinity", handle, max(cpus) // 64 + 1) if cpus else None
    for at, word in enumerate(words or ()):
        if word:
            return numa_of_cpu(graph, 64 * at + (word & -word).bit_length() - 1)  # the lowest bit that is set
    return None


def _address(info: Any) -> str | None:
    return address_in(str(info.busId)) if info is not None else None
