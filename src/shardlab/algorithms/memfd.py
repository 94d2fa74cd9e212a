"""Memory without a name that all ranks of one host map.

Rank 0 makes it with memfd_create and tells its process number and descriptor, the others open /proc/<pid>/fd/<fd>. So
whatever dies, and however, nothing is left behind: the kernel frees it with the last process that maps it.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
from dataclasses import dataclass
from typing import Protocol

import torch

from shardlab import comm
from shardlab.comm.mesh import Axis

_NAME = "shardlab"


def available() -> tuple[bool, str]:
    """Whether this machine can do it, and if not, why."""
    if not hasattr(os, "memfd_create") or not os.path.isdir("/proc/self/fd"):
        return False, f"shared memory needs os.memfd_create and /proc, which Linux has and {sys.platform} has not"
    return True, ""


class Meeting(Protocol):
    """How the ranks tell each other where the memory is."""

    def tell(self, hello: list[int]) -> list[int]:
        """Rank 0's three numbers, on every rank."""
        ...

    def gather(self, found: int) -> list[int]:
        """Every rank's number, on every rank."""
        ...


@dataclass(frozen=True)
class OverTheWire:
    """By the axis's own collectives: 24 bytes are broadcast and 8 a rank gathered, and recorded."""

    axis: Axis

    def tell(self, hello: list[int]) -> list[int]:
        return comm.broadcast(torch.tensor(hello), self.axis).tolist()

    def gather(self, found: int) -> list[int]:
        return comm.all_gather(torch.tensor([found]), self.axis).tolist()


def share(axis: Axis, size: int, meeting: Meeting | None = None) -> mmap.mmap:
    """Map `size` bytes that rank 0 of the axis makes, for reading and writing. Collective, on an axis of 2 or more.

    The first 8 bytes are a token, the rest is zero. Every rank returns, or every rank raises: RuntimeError where the
    ranks are not on one host, OSError on rank 0 where there is no memory. `meeting`: None is OverTheWire.
    """
    meeting = meeting or OverTheWire(axis)
    hello = [0, 0, 0]  # process number (0: it failed), descriptor, token
    fd, error = -1, None
    memory: mmap.mmap | None = None
    if axis.rank == 0:
        try:
            fd = os.memfd_create(_NAME, os.MFD_CLOEXEC)
            os.posix_fallocate(fd, 0, size)  # reserved for good: no memory is an OSError here, not a SIGBUS later
            memory = _map(fd, size)
            token = secrets.randbits(62)
            memory[:8] = token.to_bytes(8, sys.byteorder)
            hello = [os.getpid(), fd, token]
        except OSError as failed:
            error = failed
    try:
        pid, number, token = meeting.tell(hello)
        if axis.rank != 0 and pid:
            memory = _open(pid, number, token, size)
        # Also the barrier after which rank 0 may close its descriptor.
        found = meeting.gather(int(memory is not None))
    finally:
        if fd >= 0:
            os.close(fd)
    if memory is not None and all(found):
        return memory
    if memory is not None:
        memory.close()
    if not pid:
        raise error or RuntimeError(f"rank {axis.ranks[0]} could not make shared memory of {size} bytes")
    lost = [axis.ranks[rank] for rank, there in enumerate(found) if not there]
    raise RuntimeError(
        f"shared memory of the {axis.name} axis: ranks {lost} cannot open that of rank {axis.ranks[0]}; "
        "all ranks of the axis must run on one host, as one user, and see each other in /proc"
    )


def _open(pid: int, fd: int, token: int, size: int) -> mmap.mmap | None:
    """Map another process's memory, or None where that process is not on this host."""
    path = f"/proc/{pid}/fd/{fd}"
    try:
        if not os.readlink(path).startswith(f"/memfd:{_NAME}"):
            return None
        own = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(own).st_size != size:
                return None
            memory = _map(own, size)
        finally:
            os.close(own)
    except OSError:
        return None
    if memory[:8] == token.to_bytes(8, sys.byteorder):
        return memory
    memory.close()
    return None


def _map(fd: int, size: int) -> mmap.mmap:
    return mmap.mmap(fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ | mmap.PROT_WRITE)
