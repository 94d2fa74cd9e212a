"""Made-up machines, to be read as if they were real.

The shapes are those of real machines as their documentation draws them; sizes of caches and memory are examples.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import networkx as nx
import pynvml

from shardlab.topology import read
from tests.topology.made_up import NvLink, Nvml, Sys


def cores(
    sys: Sys,
    per_socket: int,
    sockets: int,
    gib: int,
    l2: str = "2048K",
    l3: str = "107520K",
    l3_for: int | None = None,
    smt: int = 1,
) -> None:
    """Sockets of equal cores, one NUMA node each: L1 48K/32K and L2 of its own, an L3 for every `l3_for` cores."""
    total, l3_for = per_socket * sockets, l3_for or per_socket
    for socket in range(sockets):
        first = socket * per_socket
        cpus = ",".join(f"{first + s * total}-{first + per_socket - 1 + s * total}" for s in range(smt))
        distance = " ".join("10" if other == socket else "21" for other in range(sockets))
        sys.numa(socket, cpus, gib, distance)
    for cpu in range(total * smt):
        core = cpu % total
        own = ",".join(str(core + s * total) for s in range(smt))
        start = core // l3_for * l3_for
        shared = ",".join(f"{start + s * total}-{start + l3_for - 1 + s * total}" for s in range(smt))
        caches = [(1, "Data", "48K", own), (1, "Instruction", "32K", own), (2, "Unified", l2, own)]
        caches.append((3, "Unified", l3, shared))
        sys.cpu(cpu, own, core // per_socket, caches if cpu < total else [])  # a core's second thread repeats them


def dgx_h100(root: Path) -> Nvml:
    """8 GPUs with 18 links each to 4 NVSwitches, a PCIe switch for each GPU and its InfiniBand port, 2 sockets."""
    sys = Sys(root)
    cores(sys, per_socket=56, sockets=2, gib=1024, smt=2)
    for i in range(8):
        bus, numa = 0x10 + 0x10 * i, i // 4
        root_bus = f"pci0000:{bus:02x}"
        port = sys.device(f"{root_bus}/0000:{bus:02x}:01.0", numa, "32.0 GT/s PCIe", 16)
        up = sys.device(f"{port}/0000:{bus + 1:02x}:00.0", numa, "32.0 GT/s PCIe", 16)
        for slot, child in ((0, bus + 3), (1, bus + 4)):
            down = sys.device(f"{up}/0000:{bus + 2:02x}:0{slot}.0", numa, "32.0 GT/s PCIe", 16)
            leaf = sys.device(f"{down}/0000:{child:02x}:00.0", numa, "32.0 GT/s PCIe", 16)
            if slot == 0:  # a GPU at rest turns its link down
                sys.write(f"devices/{leaf}", current_link_speed="2.5 GT/s PCIe")
            else:
                sys.infiniband(f"mlx5_{i}", leaf, "400 Gb/sec (4X NDR)", "4: ACTIVE")
                sys.interface(f"ibs{i}", leaf, 400000)
    board = sys.device("pci0000:00/0000:00:1c.0", 0, "5.0 GT/s PCIe", 1)
    sys.interface("eno1", sys.device(f"{board}/0000:02:00.0", 0, "5.0 GT/s PCIe", 1), 1000)
    for name in ("lo", "docker0"):
        sys.interface(name, None)
    return dgx_nvml()


def dgx_nvml() -> Nvml:
    """What NVML says on dgx_h100: each GPU has 5, 4, 4 and 5 links to the four switches."""
    gpus = [("NVIDIA H100 80GB HBM3", f"0000:{0x13 + 0x10 * i:02x}:00.0") for i in range(8)]
    link: list[NvLink] = [
        (f"0000:0{bus}:00.0", pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH, pynvml.NVML_NVLINK_VERSION_4_0, 26562)
        for bus, count in ((5, 5), (6, 4), (7, 4), (8, 5))
        for _ in range(count)
    ]
    return Nvml(gpus, {gpu: link for gpu in range(8)})


def workstation(root: Path) -> Nvml:
    """2 GPUs on two root ports of one desktop processor with 16 cores, no NVLink, 10 Gb/s Ethernet, Wi-Fi down."""
    sys = Sys(root)
    cores(sys, per_socket=16, sockets=1, gib=128, l2="1024K", l3="32768K", l3_for=8, smt=2)
    gpus = []
    for slot, width in ((1, 16), (3, 8)):
        port = sys.device(f"pci0000:00/0000:00:0{slot}.1", -1, "16.0 GT/s PCIe", 16)
        sys.device(f"{port}/0000:0{slot}:00.0", -1, "16.0 GT/s PCIe", width)
        gpus.append(("NVIDIA RTX A4000", f"0000:0{slot}:00.0"))
    port = sys.device("pci0000:00/0000:00:05.0", -1, "8.0 GT/s PCIe", 4)
    sys.interface("enp5s0", sys.device(f"{port}/0000:05:00.0", -1, "8.0 GT/s PCIe", 4), 10000)
    port = sys.device("pci0000:00/0000:00:06.0", -1, "5.0 GT/s PCIe", 1)
    sys.interface("wlp6s0", sys.device(f"{port}/0000:06:00.0", -1, "5.0 GT/s PCIe", 1), None, "down")
    sys.interface("lo", None)
    return Nvml(gpus, pcie=(4, 16, 4, 16))


def mesh_a100(root: Path) -> Nvml:
    """4 A100 with 4 direct NVLinks to each of the other three; two GPUs and a RoCE port under each PCIe switch."""
    sys = Sys(root)
    cores(sys, per_socket=32, sockets=2, gib=256, l2="512K", l3="16384K", l3_for=4)
    gpus = []
    for numa in range(2):
        bus = 0x20 + 0x40 * numa
        port = sys.device(f"pci0000:{bus:02x}/0000:{bus:02x}:01.1", numa, "16.0 GT/s PCIe", 16)
        up = sys.device(f"{port}/0000:{bus + 1:02x}:00.0", numa, "16.0 GT/s PCIe", 16)
        for slot in range(3):
            down = sys.device(f"{up}/0000:{bus + 2:02x}:0{slot}.0", numa, "16.0 GT/s PCIe", 16)
            leaf = sys.device(f"{down}/0000:{bus + 3 + slot:02x}:00.0", numa, "16.0 GT/s PCIe", 16)
            if slot < 2:
                gpus.append(("NVIDIA A100-SXM4-40GB", leaf.rpartition("/")[2]))
            else:
                sys.infiniband(f"mlx5_{numa}", leaf, "100 Gb/sec (4X EDR)", "4: ACTIVE", "Ethernet")
    sys.interface("lo", None)
    kind, version = pynvml.NVML_NVLINK_DEVICE_TYPE_GPU, pynvml.NVML_NVLINK_VERSION_3_0
    links: dict[int, list[NvLink]] = {
        gpu: [(address, kind, version, 25000) for _, address in gpus if address != gpus[gpu][1] for _ in range(4)]
        for gpu in range(4)
    }
    return Nvml(gpus, links, pcie=(4, 16, 4, 16))


def laptop(root: Path) -> Nvml:
    """No GPU and no driver: 2 large cores with 2 threads each, 4 small ones that share an L2, Wi-Fi."""
    sys = Sys(root)
    sys.numa(0, "0-7", 16)
    for cpu in range(4):
        own = "0-1" if cpu < 2 else "2-3"
        caches = [(1, "Data", "48K", own), (1, "Instruction", "32K", own), (2, "Unified", "1280K", own)]
        sys.cpu(cpu, own, 0, [*caches, (3, "Unified", "12288K", "0-7")])
    for cpu in range(4, 8):
        caches = [(1, "Data", "32K", str(cpu)), (1, "Instruction", "64K", str(cpu)), (2, "Unified", "2048K", "4-7")]
        sys.cpu(cpu, str(cpu), 0, [*caches, (3, "Unified", "12288K", "0-7")])
    sys.interface("wlan0", sys.device("pci0000:00/0000:00:14.3", -1))
    sys.interface("lo", None)
    return Nvml(missing="driver")


def container(root: Path) -> Nvml:
    """Nothing to see: an empty folder where /sys should be."""
    root.mkdir(parents=True, exist_ok=True)
    return Nvml(missing="driver")


def server(root: Path) -> Nvml:
    """64 cores in 8 NUMA nodes of one socket, an L3 for every 8 cores, a fast Ethernet card, no GPU."""
    sys = Sys(root)
    for node in range(8):
        distance = " ".join("10" if other == node else "12" for other in range(8))
        sys.numa(node, f"{8 * node}-{8 * node + 7}", 96, distance)
        for cpu in range(8 * node, 8 * node + 8):
            own, shared = str(cpu), f"{8 * node}-{8 * node + 7}"
            caches = [(1, "Data", "32K", own), (1, "Instruction", "32K", own), (2, "Unified", "1024K", own)]
            sys.cpu(cpu, own, 0, [*caches, (3, "Unified", "32768K", shared)])
    port = sys.device("pci0000:40/0000:40:01.1", 2, "16.0 GT/s PCIe", 16)
    sys.interface("enp65s0f0np0", sys.device(f"{port}/0000:41:00.0", 2, "16.0 GT/s PCIe", 16), 100000)
    sys.interface("lo", None)
    return Nvml(missing="driver")


def virtual_machine(root: Path) -> Nvml:
    """8 GPUs and 8 network cards passed through to one virtual bus; the switches stay hidden on the host."""
    sys = Sys(root)
    cores(sys, per_socket=24, sockets=2, gib=900, smt=2)
    gpus = []
    for i in range(8):
        gpus.append(("NVIDIA A100-SXM4-80GB", f"0000:00:{4 + i:02x}.0"))
        sys.device(f"pci0000:00/0000:00:{4 + i:02x}.0", i // 4)
        card = sys.device(f"pci0000:00/0000:00:{0x10 + i:02x}.0", i // 4)
        sys.interface(f"eth{i}", card, 100000)
    for name in ("lo", "docker0", "veth1", "veth2", "veth3", "br-lan"):
        sys.interface(name, None)
    link = ("fffffff:ffff:ff", None, pynvml.NVML_NVLINK_VERSION_3_0, None)
    return Nvml(gpus, {gpu: [link] * 12 for gpu in range(8)}, affinity={gpu: 0 for gpu in range(8)})


def crowd(root: Path) -> Nvml:
    """16 GPUs in fours below two rows of PCIe switches, 12 network ports, NVLink bridges between neighbours."""
    sys = Sys(root)
    cores(sys, per_socket=3, sockets=2, gib=512)
    gpus = []
    for numa in range(2):
        bus = 0x10 + 0x70 * numa
        port = sys.device(f"pci0000:{bus:02x}/0000:{bus:02x}:01.0", numa, "16.0 GT/s PCIe", 16)
        top = sys.device(f"{port}/0000:{bus + 1:02x}:00.0", numa, "16.0 GT/s PCIe", 16)
        for branch in range(2):
            inner = bus + 4 + 0x20 * branch
            down = sys.device(f"{top}/0000:{bus + 2:02x}:0{branch}.0", numa, "16.0 GT/s PCIe", 16)
            up = sys.device(f"{down}/0000:{inner:02x}:00.0", numa, "16.0 GT/s PCIe", 16)
            for slot in range(7):
                hole = sys.device(f"{up}/0000:{inner + 1:02x}:0{slot}.0", numa, "16.0 GT/s PCIe", 16)
                leaf = sys.device(f"{hole}/0000:{inner + 2 + slot:02x}:00.0", numa, "16.0 GT/s PCIe", 16)
                if slot < 4:
                    gpus.append(("NVIDIA A40", leaf.rpartition("/")[2]))
                else:
                    rate = "200 Gb/sec (4X HDR)" if slot < 6 else "10 Gb/sec (4X SDR)"
                    state = "4: ACTIVE" if slot < 6 else "1: DOWN"
                    sys.infiniband(f"mlx5_{6 * numa + 3 * branch + slot - 4}", leaf, rate, state)
    sys.interface("lo", None)
    kind, version = pynvml.NVML_NVLINK_DEVICE_TYPE_GPU, pynvml.NVML_NVLINK_VERSION_3_1
    links: dict[int, list[NvLink]] = {gpu: [(gpus[gpu ^ 1][1], kind, version, 14062)] * 4 for gpu in range(16)}
    return Nvml(gpus, links, pcie=(4, 16, 4, 16))


def gpu_container(root: Path) -> Nvml:
    """The GPUs of dgx_h100 in a container that hides /sys."""
    root.mkdir(parents=True, exist_ok=True)
    return dgx_nvml()


MACHINES: dict[str, Callable[[Path], Nvml]] = {
    "dgx-h100": dgx_h100,
    "workstation": workstation,
    "mesh-a100": mesh_a100,
    "laptop": laptop,
    "container": container,
    "server": server,
    "virtual-machine": virtual_machine,
    "crowd": crowd,
    "gpu-container": gpu_container,
}


@cache
def machine(name: str) -> nx.Graph:
    """The graph of a made-up machine, read once for all tests: copy it before you change it."""
    with tempfile.TemporaryDirectory() as folder:
        return read(folder, MACHINES[name](Path(folder)))
