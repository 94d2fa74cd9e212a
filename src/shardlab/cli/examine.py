"""What this machine can run and measure, in plain words: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from shardlab.measure.machine import num_cores

State = Literal["ok", "without", "missing"]


@dataclass(frozen=True)
class Finding:
    """One line of the report. "without": the labs go on, with less. "missing": nothing runs until it is there."""

    what: str
    state: State
    text: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Look at one thing after the other. Each look stands alone: one that fails is itself a finding."""
    for what, look in LOOKS.items():
        try:
            yield look(what)
        except ImportError as error:
            advice = "make the environment again: pip install -r requirements.lock"
            yield Finding(what, "missing", f"{error.name or error} is not installed", advice)
        except Exception as error:  # one look that fails must not hide the others
            yield Finding(what, "without", f"could not be examined: {type(error).__name__}: {error}")


def summary(findings: list[Finding]) -> str:
    """What all of it amounts to, in one or two sentences."""
    states = {finding.what: finding.state for finding in findings}
    missing = [finding.what for finding in findings if finding.state == "missing"]
    if missing:
        return f"Not ready: {', '.join(missing)} first."
    gpus = states.get("GPUs") == "ok"
    ranks = "Ranks run on the CPU through gloo" + (", or one on each GPU through NCCL" if gpus else "")
    bytes_ = (
        "counted on the wire" if states.get("wire counters") == "ok" else "recorded by comm, not counted on the wire"
    )
    return f"Ready. {ranks}; bytes are {bytes_}."


def topology() -> list[str]:
    """What is joined to what on this machine, a line for each sort of thing."""
    try:
        from shardlab.topology import describe, read

        return describe(read())
    except Exception as error:  # NVML and /sys differ from machine to machine, and the rest of the report stands
        return [f"could not be read: {type(error).__name__}: {error}"]


def _python(what: str) -> Finding:
    return Finding(what, "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _cores(what: str) -> Finding:
    cores = num_cores()
    text = f"{cores} {'core' if cores == 1 else 'cores'} for this process"
    if cores == 1:
        return Finding(what, "without", text, "ranks take turns on one core: bytes are right, times say nothing")
    return Finding(what, "ok", f"{text}; more ranks than that take turns, and have one thread each")


def _memory(what: str) -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    text = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    if memory.available < 3 * 2**30:
        return Finding(
            what,
            "without",
            text,
            "ranks with Triton and a small model take 0.3 GiB each: close something, or use few ranks",
        )
    return Finding(what, "ok", text)


def _torch(what: str) -> Finding:
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return Finding(what, "ok", f"torch {torch.__version__} ({built})")


def _gloo(what: str) -> Finding:
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        return Finding(what, "missing", "this torch was built without gloo", "install the torch of requirements.lock")
    return Finding(what, "ok", "ranks on the CPU")


def _gpus(what: str) -> Finding:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return Finding(what, "without", "none: no NVIDIA driver here", "none needed: every lab runs on the CPU")
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        names = [_gpu(handle) for handle in handles]
        driver = pynvml.nvmlSystemGetDriverVersion()
    finally:
        pynvml.nvmlShutdown()
    if not names:
        return Finding(what, "without", f"none, though driver {driver} is there", "every lab runs on the CPU")
    import torch

    text = f"{len(names)} x {names[0]}" if len(set(names)) == 1 else "; ".join(names)
    if torch.cuda.device_count() < len(names):
        advice = f"torch sees {torch.cuda.device_count()}: it needs its CUDA build, and CUDA_VISIBLE_DEVICES unset"
        return Finding(what, "without", f"{text}, driver {driver}", advice)
    return Finding(what, "ok", f"{text}, driver {driver}")


def _gpu(handle: Any) -> str:
    import pynvml

    memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    return f"{pynvml.nvmlDeviceGetName(handle)}, {memory / 2**30:.0f} GiB"


def _nccl(what: str) -> Finding:
    import torch
    import torch.distributed as dist
    from torch.cuda import nccl

    if not dist.is_available() or not dist.is_nccl_available():
        return Finding(what, "without", "not in this torch", "only ranks on GPUs need it")
    version = ".".join(map(str, nccl.version()))
    count = torch.cuda.device_count()
    if count < 2:
        return Finding(what, "without", f"NCCL {version}, but {count} GPUs for it", "it joins two GPUs or more")
    return Finding(what, "ok", f"NCCL {version}: up to {count} ranks, one on each GPU")


def _triton(what: str) -> Finding:
    version = _installed("triton")
    if version is None:
        return Finding(
            what,
            "without",
            "not installed",
            "layers use plain torch; pip install the triton of requirements.lock",
        )
    import torch

    if torch.cuda.is_available():
        return Finding(what, "ok", f"Triton {version}, compiling for {torch.cuda.get_device_name(0)}")
    advice = "kernels run in Triton's interpreter (TRITON_INTERPRET=1), slowly; layers use plain torch"
    return Finding(what, "without", f"Triton {version}, no GPU to compile for", advice)


def _wire(what: str) -> Finding:
    from shardlab.launch import wire

    readable, text = wire.available()
    if readable:
        return Finding(what, "ok", text)
    return Finding(what, "without", text, "labs go on with the bytes that comm recorded")


def _shared_memory(what: str) -> Finding:
    folder = "/dev/shm"  # noqa: S108  (looked at, never written to)
    if not os.path.isdir(folder):
        return Finding(what, "without", f"no {folder} on this system", "only NCCL needs it")
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**20:,.0f} MiB free in {folder}"
    if free < 64 * 2**20:
        return Finding(what, "without", text, "NCCL needs 64 MiB; in a container: --shm-size=1g")
    return Finding(what, "ok", text)


def _scratch(what: str) -> Finding:
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
            folder = tempfile.gettempdir()
    except OSError as error:
        return Finding(
            what,
            "missing",
            f"no temporary folder can be written ({error.strerror})",
            "set TMPDIR to one that can",
        )
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free in {folder}"
    if free < 2**28:
        return Finding(what, "without", text, "free some, or set TMPDIR to another disk")
    return Finding(what, "ok", text)


def _model(what: str) -> Finding:
    path = smollm2_in_cache()
    if path is None:
        return Finding(what, "without", "not in the cache", "shardlab weights smollm2 (98 MB, once)")
    return Finding(what, "ok", f"{path}, {path.stat().st_size / 1e6:.0f} MB")


def smollm2_in_cache() -> Path | None:
    """The model's file, if `shardlab weights smollm2` has put it there."""
    from shardlab.model.checkpoint import fetch

    path = fetch.cached_path("smollm2")
    return path if path.is_file() else None


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


LOOKS: dict[str, Callable[[str], Finding]] = {
    "Python": _python,
    "cores": _cores,
    "memory": _memory,
    "torch": _torch,
    "gloo": _gloo,
    "GPUs": _gpus,
    "NCCL": _nccl,
    "Triton": _triton,
    "wire counters": _wire,
    "shared memory": _shared_memory,
    "scratch space": _scratch,
    "SmolLM2": _model,
}
