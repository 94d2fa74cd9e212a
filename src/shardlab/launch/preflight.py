"""What a machine must have before ranks are started on it. Found out in a few milliseconds, said in plain words."""

from __future__ import annotations

import os
import shutil
import tempfile

import torch
import torch.distributed as dist

from shardlab.launch.errors import LaunchError
from shardlab.launch.server import PREFIX

# What a rank takes before its program does anything, beside what all share with the server that forks them. gloo:
# measured with 4 to 128 ranks, 5 MB of its own (smaps_rollup), 10 once a program has run, 11 with its collectives in
# shared memory; page tables and sockets are the rest. NCCL: a CUDA context, not measured here.
_RANK_BYTES = {"gloo": 16e6, "nccl": 0.3e9}
_SERVER_BYTES = 0.2e9
_ROOMY_BYTES = 0.3e9  # a rank that loads Triton and a small model; with less, a line says what there is
_SHM_BYTES = 64 * 1024**2


def choose_backend(world_size: int, backend: str | None = None) -> tuple[str, str]:
    """("gloo" or "nccl", the line that says so). NCCL wants a GPU a rank. Raises LaunchError, ValueError."""
    if backend not in (None, "gloo", "nccl"):
        raise ValueError(f"backend={backend!r}: 'gloo' (CPU), 'nccl' (GPUs) or None (the best)")
    num_gpus = torch.cuda.device_count()  # asks NVML: CUDA stays untouched
    ranks = "1 rank" if world_size == 1 else f"{world_size} ranks"
    if backend == "gloo":
        return "gloo", f"{ranks} on gloo (CPU): as asked"
    if num_gpus >= world_size and dist.is_nccl_available():
        return "nccl", f"{ranks} on NCCL, one GPU each"
    if backend == "nccl":
        has = "this torch has no NCCL" if not dist.is_nccl_available() else f"there are {num_gpus} GPUs"
        raise LaunchError(f"NCCL needs one GPU a rank: {world_size} ranks, and {has}. backend='gloo' runs on the CPU")
    if num_gpus == 0:
        return "gloo", f"{ranks} on gloo (CPU): no GPU here"
    reason = f"{num_gpus} GPU{'s' if num_gpus > 1 else ''}" if dist.is_nccl_available() else "this torch has no NCCL"
    return "gloo", f"{ranks} on gloo (CPU): {ranks} but {reason}"


def make_root() -> str:
    """The private folder (mode 0700) of a launch server, in the temp folder. Raises LaunchError where that
    is not writable.
    """
    try:
        return tempfile.mkdtemp(prefix=PREFIX)
    except OSError as error:
        raise LaunchError(f"no temporary folder can be written: {error}. Set TMPDIR to a folder that can") from None


def check_room(world_size: int, backend: str, folder: str) -> None:
    """Raises LaunchError when memory, disk or (for NCCL) shared memory would not carry `world_size` ranks.

    What a program will hold is its own business: where that could become tight, a line says how much there is.
    """
    free = shutil.disk_usage(folder).free
    if free < 16 * 1024**2:
        raise LaunchError(f"{free / 1e6:.0f} MB left on the disk of {folder}. Free some, or set TMPDIR to another disk")
    each, available = _RANK_BYTES[backend], available_memory()
    if available is not None and available < _SERVER_BYTES + each * world_size:
        most = max(0, int((available - _SERVER_BYTES) / each))
        raise LaunchError(
            f"{world_size} ranks need about {(_SERVER_BYTES + each * world_size) / 1e9:.1f} GB of memory to start; "
            f"{available / 1e9:.1f} are free. Close something, or use at most {most} rank{'' if most == 1 else 's'}"
        )
    if available is not None and available < _ROOMY_BYTES * world_size:
        print(
            f"{world_size} ranks share {available / 1e9:.1f} GB of free memory: "
            f"{available / world_size / 1e6:.0f} MB each for what the program holds"
        )
    if backend == "nccl" and os.path.isdir("/dev/shm"):  # noqa: S108  (gloo and this package use none of it)
        shm = shutil.disk_usage("/dev/shm").free  # noqa: S108
        if shm < _SHM_BYTES:
            raise LaunchError(
                f"NCCL needs 64 MB in /dev/shm: {shm / 1e6:.0f} MB are free. In a container: --shm-size=1g"
            )


def available_memory() -> int | None:
    """Bytes that new processes can have, or None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
