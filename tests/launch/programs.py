"""Programs for the ranks of these tests. Free of pytest, which every rank would have to import."""

from __future__ import annotations

import ctypes
import os
import signal
import time

import torch

from shardlab import comm
from shardlab.comm.mesh import Mesh

CULPRIT = 1


def total(mesh: Mesh) -> float:
    return comm.all_reduce(torch.ones(3), mesh["tp"])[0].item()


def exits(mesh: Mesh, code: int) -> None:
    total(mesh)
    if mesh.rank == CULPRIT:
        os._exit(code)
    total(mesh)


def dies(mesh: Mesh, number: int) -> None:
    total(mesh)
    if mesh.rank == CULPRIT:
        if number == signal.SIGSEGV:
            ctypes.string_at(0)
        os.kill(os.getpid(), number)
    total(mesh)


def raises(mesh: Mesh) -> None:
    total(mesh)
    if mesh.rank == CULPRIT:
        raise ValueError("boom")
    total(mesh)


def two_raise(mesh: Mesh, mark: str) -> None:
    if mesh.rank == 2:
        open(mark, "w").close()
        raise ValueError("the first")
    if mesh.rank == 1:
        while not os.path.exists(mark):
            time.sleep(0.01)
        time.sleep(0.5)
        raise KeyError("the second")


def sleeps(mesh: Mesh, seconds: float = 1000.0) -> None:
    total(mesh)
    if mesh.rank == CULPRIT:
        time.sleep(seconds)
    total(mesh)


def stops(mesh: Mesh) -> None:
    total(mesh)
    if mesh.rank == CULPRIT:
        os.kill(os.getpid(), signal.SIGSTOP)
    total(mesh)


def leaves(mesh: Mesh) -> None:
    total(mesh)
    total(mesh)
    if mesh.rank != CULPRIT:
        total(mesh)


def shapes_differ(mesh: Mesh) -> None:
    comm.all_reduce(torch.ones(2048 if mesh.rank == CULPRIT else 1024), mesh["tp"])


def dtypes_differ(mesh: Mesh) -> None:
    comm.all_reduce(torch.ones(8, dtype=torch.bfloat16 if mesh.rank == CULPRIT else torch.float32), mesh["tp"])


def ops_differ(mesh: Mesh) -> None:
    total(mesh)
    if mesh.rank == CULPRIT:
        comm.broadcast(torch.ones(8), mesh["tp"])
    comm.all_reduce(torch.ones(8), mesh["tp"])


def works(mesh: Mesh, step_s: float, slow_rank: int, factor: float) -> float:
    for _ in range(4):
        time.sleep(step_s * (factor if mesh.rank == slow_rank else 1))
        total(mesh)
    return total(mesh)


def starts_a_process(mesh: Mesh) -> None:
    """A rank that has started something of its own, and then dies or is killed."""
    import subprocess

    subprocess.Popen(["sleep", "1000"])
    if mesh.rank == CULPRIT:
        raise ValueError("with a child")
    time.sleep(1000)
