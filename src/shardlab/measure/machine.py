"""Which machine this is, and how many cores it has for us: the provenance of a measurement."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path

from shardlab.measure.record import Provenance


def num_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def provenance(backend: str, command: str) -> Provenance:
    """For rows measured here and today, by typing `command`."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Provenance(device(backend), metadata.version("torch"), backend, today, command)


def device(backend: str = "gloo") -> str:
    """'AMD EPYC, 2 cores' where gloo carries the ranks, 'NVIDIA H100 80GB HBM3' where NCCL does."""
    if backend == "nccl":
        import torch

        return torch.cuda.get_device_name(0)
    cores = num_cores()
    return f"{_processor()}, {cores} core{'' if cores == 1 else 's'}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()
