"""The parts of a made-up machine: a folder with a /sys in it, and a library that answers as NVML does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

GIB = 1 << 30


class Sys:
    """Writes a /sys. Every call adds one thing to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def write(self, path: str, **files: object) -> str:
        folder = self.root / "sys" / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / name).write_text(f"{value}\n")
        return path

    def link(self, path: str, target: str) -> None:
        source = self.root / "sys" / path
        source.parent.mkdir(parents=True, exist_ok=True)
        source.symlink_to(self.root / "sys" / target)

    def numa(self, index: int, cpus: str, gib: int, distance: str = "10") -> None:
        meminfo = f"Node {index} MemTotal:       {gib * 1024 * 1024} kB\nNode {index} MemFree:        1 kB"
        self.write(f"devices/system/node/node{index}", cpulist=cpus, meminfo=meminfo, distance=distance)

    def cpu(self, cpu: int, threads: str, package: int, caches: list[tuple[int, str, str, str]]) -> None:
        """caches: (level, type, size, shared_cpu_list)."""
        self.write(f"devices/system/cpu/cpu{cpu}/topology", core_cpus_list=threads, physical_package_id=package)
        for index, (level, kind, size, shared) in enumerate(caches):
            files: dict[str, object] = {"level": level, "type": kind, "size": size, "shared_cpu_list": shared}
            self.write(f"devices/system/cpu/cpu{cpu}/cache/index{index}", **files)

    def device(self, path: str, numa: int = -1, speed: str = "", width: int = 0, **more: object) -> str:
        """A PCI device at devices/`path`, with its link in bus/pci; `speed` is what both ends can do and do."""
        files: dict[str, object] = {"numa_node": numa}
        if speed:
            files.update(current_link_speed=speed, max_link_speed=speed)
            files.update(current_link_width=width, max_link_width=width)
        self.write(f"devices/{path}", **(files | more))
        name = path.rpartition("/")[2]
        if not (self.root / f"sys/bus/pci/devices/{name}").is_symlink():
            self.link(f"bus/pci/devices/{name}", f"devices/{path}")
        return path

    def interface(self, name: str, device: str | None, speed: int | None = None, state: str = "up") -> None:
        """device: the PCI path below devices/, or None for one without a wire."""
        home = f"devices/{device}/net/{name}" if device else f"devices/virtual/net/{name}"
        self.write(home, operstate=state, **({} if speed is None else {"speed": speed}))
        self.link(f"class/net/{name}", home)
        if device:
            self.link(f"{home}/device", f"devices/{device}")

    def infiniband(self, name: str, device: str, rate: str, state: str, link_layer: str = "InfiniBand") -> None:
        home = f"devices/{device}/infiniband/{name}"
        self.write(f"{home}/ports/1", rate=rate, state=state, link_layer=link_layer)
        self.link(f"class/infiniband/{name}", home)
        self.link(f"{home}/device", f"devices/{device}")


NvLink = tuple[str, int | None, int, int | None]  # the partner, its type, the version, MB/s of the line


@dataclass
class Nvml:
    """Answers like pynvml for `gpus` = (name, PCI address); everything that it does not know is refused.

    nvlinks[gpu] = [(address of the partner, its type, version, line in MB/s), ...], one for each link.
    """

    gpus: list[tuple[str, str]] = field(default_factory=list)
    nvlinks: dict[int, list[NvLink]] = field(default_factory=dict)
    pcie: tuple[int, int, int, int] = (1, 16, 5, 16)  # generation and width now, then at most
    affinity: dict[int, int] = field(default_factory=dict)
    ancestor: Callable[[int, int], int] = lambda a, b: pynvml.NVML_TOPOLOGY_SYSTEM
    missing: str = ""
    calls: list[str] = field(default_factory=list)

    NVMLError = pynvml.NVMLError

    def __getattr__(self, name: str) -> Any:
        if name.startswith("NVML_"):
            return getattr(pynvml, name)
        if name.startswith("nvml") and hasattr(pynvml, name):
            return self._refuse
        raise AttributeError(name)

    def _refuse(self, *args: Any) -> Any:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlInit(self) -> None:
        self.calls.append("init")
        if not self.gpus and self.missing:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def nvmlShutdown(self) -> None:
        self.calls.append("shutdown")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, gpu: int) -> str:
        return self.gpus[gpu][0]

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> Any:
        return SimpleNamespace(total=80 * GIB)

    def nvmlDeviceGetPciInfo(self, gpu: int) -> Any:
        return pci_info(self.gpus[gpu][1])

    def nvmlDeviceGetCurrPcieLinkGeneration(self, gpu: int) -> int:
        return self.pcie[0]

    def nvmlDeviceGetCurrPcieLinkWidth(self, gpu: int) -> int:
        return self.pcie[1]

    def nvmlDeviceGetMaxPcieLinkGeneration(self, gpu: int) -> int:
        return self.pcie[2]

    def nvmlDeviceGetMaxPcieLinkWidth(self, gpu: int) -> int:
        return self.pcie[3]

    def nvmlDeviceGetNvLinkState(self, gpu: int, link: int) -> int:
        self._link(gpu, link)
        return pynvml.NVML_FEATURE_ENABLED

    def nvmlDeviceGetNvLinkRemotePciInfo(self, gpu: int, link: int) -> Any:
        return pci_info(self._link(gpu, link)[0])

    def nvmlDeviceGetNvLinkRemoteDeviceType(self, gpu: int, link: int) -> int:
        kind = self._link(gpu, link)[1]
        return self._refuse() if kind is None else kind

    def nvmlDeviceGetNvLinkVersion(self, gpu: int, link: int) -> int:
        return self._link(gpu, link)[2]

    def nvmlDeviceGetFieldValues(self, gpu: int, fields: list[tuple[int, int]]) -> Any:
        values = (pynvml.c_nvmlFieldValue_t * len(fields))()
        for value, (asked, link) in zip(values, fields, strict=True):
            line = self._link(gpu, link)[3] if asked == pynvml.NVML_FI_DEV_NVLINK_GET_SPEED else None
            value.nvmlReturn = pynvml.NVML_SUCCESS if line else pynvml.NVML_ERROR_NOT_SUPPORTED
            value.value.uiVal = line or 0
        return values

    def nvmlDeviceGetTopologyCommonAncestor(self, a: int, b: int) -> int:
        return self.ancestor(a, b)

    def nvmlDeviceGetP2PStatus(self, a: int, b: int, index: int) -> int:
        assert index == pynvml.NVML_P2P_CAPS_INDEX_WRITE
        return pynvml.NVML_P2P_STATUS_OK if self.nvlinks else pynvml.NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED

    def nvmlDeviceGetCpuAffinity(self, gpu: int, words: int) -> list[int]:
        mask = self.affinity.get(gpu, 0)
        return [(mask >> 64 * word) & (2**64 - 1) for word in range(words)]

    def _link(self, gpu: int, link: int) -> NvLink:
        links = self.nvlinks.get(gpu, [])
        if link >= len(links):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return links[link]


def pci_info(address: str) -> Any:
    """The real structure, with the address as NVML writes it: eight digits of domain, upper case."""
    info = pynvml.nvmlPciInfo_t()
    info.busId = f"0000{address}".upper() if address[:3] != "fff" else address
    return info
