"""Memory without a name that all ranks of one host map.

Rank 0 makes it with memfd_create and tells its process number and descriptor, the others open /proc/<pid>/fd/<fd>. So
whatever dies, and however, nothing is left behind: the kernel frees it with the last process that maps it.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys

import torch

from shardlab import comm
from shardlab.comm.mesh import Axis

_NAME = "shardlab"


def available() -> tuple[bool, str]:
    """Whether this machine can do it, and if not, why."""
    if not hasattr(os, "memfd_create") or not os.path.isdir("/proc/self/fd"):
        return False, f"shared memory needs os.memfd_create and /proc, which Linux has and {sys.platform} has not"
    return True, ""


def share(axis: Axis, size: int) -> mmap.mmap:
    """Map `size` bytes that rank 0 of the axis makes, for reading and writing. Collective, on an axis of 2 or more.

    The first 8 bytes are a token, the rest is zero. Every rank returns, or every rank raises: RuntimeError where the
    ranks are not on one host, OSError on rank 0 where there is no memory. It broadcasts 24 bytes and gathers 8 a rank,
    which are recorded.
    """
    hello = torch.zeros(3, dtype=torch.int64)  # process number (0: it failed), descriptor, token
    fd, error = -1, None
    memory: mmap.mmap | None = None
    if axis.rank == 0:
        try:
            fd = os.memfd_create(_NAME, os.MFD_CLOEXEC)
            os.posix_fallocate(fd, 0, size)  # reserved for good: no memory is an OSError here, not a SIGBUS later
            memory = _map(fd, size)
            token = secrets.randbits(62)
            memory[:8] = token.to_bytes(8, sys.byteorder)
            hello = torch.tensor([os.getpid(), fd, token])
        except OSError as failed:
            error = failed
    try:
        pid, number, token = comm.broadcast(hello, axis).tolist()
        if axis.rank != 0 and pid:
            memory = _open(pid, number, token, size)
        # Also the barrier after which rank 0 may close its descriptor.
        found = comm.all_gather(torch.tensor([int(memory is not None)]), axis).tolist()
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
