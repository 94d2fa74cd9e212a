"""Rows F16, F17 and F18: a real notebook kernel is interrupted, restarted and killed, and leaves nothing behind.

The ranks would hang for a thousand seconds: that a cell comes back at all is the interrupt's doing.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardlab.launch import report
from tests.launch import leftovers
from tests.launch.kernel import Kernel, kernel

pytestmark = pytest.mark.timeout(300)
PROGRAMS = """
import os, signal, sys, time
import torch
from shardlab import Ranks, comm
from shardlab.launch import client

def total(mesh):
    return comm.all_reduce(torch.ones(2), mesh["tp"])[0].item()

def sleeps(mesh):
    total(mesh)
    if mesh.rank == 1:
        open("asleep", "w").close()
        time.sleep(1000)
    total(mesh)

def stops(mesh):
    total(mesh)
    if mesh.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    total(mesh)

ranks = Ranks(4)
"""
STUCK = ["sleeps", "stops"]


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Kernel]:
    with kernel(tmp_path) as started:
        started.cell(PROGRAMS)
        yield started


def _stuck(notebook: Kernel, program: str) -> str:
    """A cell whose ranks are all in the hang that `program` makes."""
    assert "[4.0, 4.0, 4.0, 4.0]" in notebook.cell("print(ranks.run(total))")
    (notebook.temp / "asleep").unlink(missing_ok=True)
    cell = notebook.start(f"ranks.run({program})")
    ranks = [pid for pid, name in leftovers.processes(notebook.run).items() if name.startswith("shardlab")]
    assert len(ranks) == 4
    if program == "stops":
        hangs = lambda: any(report.process_state(pid) == "T" for pid in ranks)  # noqa: E731
    else:
        hangs = (notebook.temp / "asleep").exists
    leftovers.wait_until(hangs, program)
    return cell


def test_f16_stop_button(notebook: Kernel) -> None:
    for program in STUCK:
        cell = _stuck(notebook, program)
        notebook.interrupt()
        reply = notebook.finish(cell)
        assert (reply.status, reply.ename) == ("error", "KeyboardInterrupt")
        assert reply.traceback.count("KeyboardInterrupt") <= 2 and "During handling" not in reply.traceback
        assert leftovers.ranks_left(notebook.run, notebook.pid) == {}
    assert "[4.0, 4.0, 4.0, 4.0]" in notebook.cell("print(ranks.run(total))")
    assert "4 ranks on gloo (CPU): no GPU here" not in notebook.cell("ranks.run(total)"), "said once a pool"


@pytest.mark.parametrize("how", ["restart", "kill -9", "kill -9 the kernel alone", "shutdown"])
@pytest.mark.parametrize("program", STUCK)
def test_f17_the_kernel_goes(notebook: Kernel, program: str, how: str) -> None:
    _stuck(notebook, program)
    old_run, pid = notebook.run, notebook.pid
    if how == "restart":
        notebook.run = leftovers.new_run()  # the new kernel is under a mark of its own
        notebook.manager.restart_kernel(now=True, env={**os.environ, leftovers.RUN: notebook.run})
    elif how == "shutdown":
        notebook.manager.shutdown_kernel(now=True)
    else:
        os.kill(pid, signal.SIGKILL) if "alone" in how else os.killpg(pid, signal.SIGKILL)
    assert leftovers.left(old_run) == {}
    assert leftovers.folders(notebook.temp) == []
    if how == "restart":
        assert "[4.0, 4.0, 4.0, 4.0]" in notebook.ready().cell(PROGRAMS + "print(ranks.run(total))")


def test_f17_the_launch_server_is_killed(notebook: Kernel) -> None:
    """Its ranks go with it, the stopped one too; the cell fails in plain words; the next run starts another."""
    cell = _stuck(notebook, "stops")
    (server,) = [p for p in leftovers.processes(notebook.run) if leftovers.parent(p) == notebook.pid]
    os.kill(server, signal.SIGKILL)
    reply = notebook.finish(cell)
    assert reply.ename in ("LaunchError", "RankDied")
    assert leftovers.ranks_left(notebook.run, notebook.pid) == {}
    assert "[4.0, 4.0, 4.0, 4.0]" in notebook.cell("print(ranks.run(total))")
    assert len(leftovers.folders(notebook.temp, 0.0)) == 1, "the old server's folder is gone"


def test_f17_kernel_and_server_are_killed_together(notebook: Kernel) -> None:
    """No process is left; the folder, which nobody can have removed, goes when the next server starts."""
    _stuck(notebook, "stops")
    mine = leftovers.processes(notebook.run)
    server = [p for p in mine if leftovers.parent(p) == notebook.pid]
    for pid in (notebook.pid, *server):
        os.kill(pid, signal.SIGKILL)
    assert leftovers.left(notebook.run) == {}
    (folder,) = leftovers.folders(notebook.temp, within_s=0.0)
    old = time.time() - 3600
    os.utime(folder, (old, old))
    with kernel(notebook.temp) as another:
        another.cell(PROGRAMS + "ranks.run(total)")
        assert folder not in leftovers.folders(notebook.temp, 0.0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_f18_stop_during_start_up(notebook: Kernel) -> None:
    """Twenty cold starts (no launch server yet), each interrupted somewhere in its first two seconds."""
    moments = random.Random(18)
    for _ in range(20):
        notebook.cell("client.close_server()")
        cell = notebook.start("ranks.run(sleeps)")
        time.sleep(moments.uniform(0.02, 2.0))
        notebook.interrupt()
        reply = notebook.finish(cell)
        assert (reply.status, reply.ename) == ("error", "KeyboardInterrupt"), reply.traceback
        assert "During handling" not in reply.traceback
        assert leftovers.ranks_left(notebook.run, notebook.pid) == {}
    assert "[4.0, 4.0, 4.0, 4.0]" in notebook.cell("print(ranks.run(total))")
