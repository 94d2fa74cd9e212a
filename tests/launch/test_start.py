"""Starting ranks: rows F19, F20, F22, F23, F25 and F32, and what a machine must have."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import torch

from shardlab import Plan, Ranks
from shardlab.launch import LaunchError, client, preflight
from tests.launch import leftovers, programs

SCRIPT = """
import os, sys, time, torch
from shardlab import Ranks, comm
def total(mesh):
    return comm.all_reduce(torch.ones(2), mesh["tp"])[0].item()
for _ in range({times}):
    with Ranks({world_size}) as ranks:
        assert ranks.run(total) == [{world_size}.0] * {world_size}
    assert ranks.exit_codes == dict.fromkeys(range({world_size}), 0), ranks.exit_codes
print("all good")
"""


def script(times: int = 1, world_size: int = 2, **env: str) -> subprocess.Popen[str]:
    """A program without a __main__ guard, as beginners write them."""
    code = SCRIPT.format(times=times, world_size=world_size)
    environ = {**os.environ, **env}
    return subprocess.Popen([sys.executable, "-c", code], env=environ, text=True, stdout=-1, stderr=-1)


def finish(process: subprocess.Popen[str], timeout_s: float = 500.0) -> tuple[str, str]:
    out, err = process.communicate(timeout=timeout_s)
    return out, err


@pytest.mark.timeout(600)
def test_f19_two_notebooks_at_once(own_temp: Path) -> None:
    both = [script(20, TMPDIR=str(own_temp)) for _ in range(2)]
    for process in both:
        out, err = finish(process)
        assert out.endswith("all good\n"), err


def test_f20_a_taken_port_has_no_effect(ranks: Ranks) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 29500))
            taken.listen()
        except OSError:
            pass  # somebody else has it: as good
        ranks.close()
        assert ranks.run(programs.total) == [4.0] * 4


def test_nothing_listens_beyond_loopback(ranks: Ranks) -> None:
    ranks.run(programs.total)
    for pid in ranks.pids:
        for connection in psutil.Process(pid).net_connections(kind="inet"):
            assert connection.laddr.ip in ("127.0.0.1", "::1"), connection


def test_f22_tiny_shared_memory(own_temp: Path, tmp_path: Path) -> None:
    """With 1 MB of /dev/shm everything works: nothing here goes through it."""
    inside = tmp_path / "inside.py"
    inside.write_text(SCRIPT.format(times=1, world_size=4))
    mount = "mount -t tmpfs -o size=1M tmpfs /dev/shm && df -k --output=size /dev/shm && exec "
    command = ["unshare", "-Urm", "sh", "-c", f'{mount} "$0" "$1"', sys.executable, str(inside)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env={**os.environ, "TMPDIR": str(own_temp)}
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert re.search(r"^\s*1024$", done.stdout, re.M)
    assert done.stdout.endswith("all good\n"), done.stderr


@pytest.mark.parametrize(
    ("num_gpus", "nccl", "world_size", "backend", "line"),
    [
        (0, True, 4, "gloo", "4 ranks on gloo (CPU): no GPU here"),
        (0, False, 1, "gloo", "1 rank on gloo (CPU): no GPU here"),
        (1, True, 4, "gloo", "4 ranks on gloo (CPU): 4 ranks but 1 GPU"),
        (8, False, 4, "gloo", "4 ranks on gloo (CPU): 4 ranks but this torch has no NCCL"),
        (8, True, 4, "nccl", "4 ranks on NCCL, one GPU each"),
    ],
)
def test_f23_the_path_that_runs_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, num_gpus: int, nccl: bool, world_size: int, backend: str, line: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: nccl)
    assert preflight.choose_backend(world_size) == (backend, line)


def test_f23_the_line_is_printed_once_a_pool(capsys: pytest.CaptureFixture[str]) -> None:
    with Ranks(2, "gloo") as pool:
        pool.run(programs.total)
        pool.run(programs.total)
        pool.close()
        pool.run(programs.total)
    assert capsys.readouterr().out == "2 ranks on gloo (CPU): as asked\n"


def test_f23_asking_for_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(LaunchError, match=r"NCCL needs one GPU a rank: 2 ranks, and .*backend='gloo' runs"):
        Ranks(2, "nccl").run(programs.total)
    with pytest.raises(ValueError, match=r"backend='mpi': 'gloo' \(CPU\), 'nccl'"):
        Ranks(2, "mpi").run(programs.total)


def test_f25_a_temp_folder_that_cannot_be_written(own_temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client.close_server()
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    with pytest.raises(LaunchError, match=r"no temporary folder can be written: .*/proc/nowhere.*Set TMPDIR"):
        Ranks(2).run(programs.total)
    assert client._server is None


def test_f25_a_disk_that_is_full(own_temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(LaunchError, match=r"cannot be set up in .*shardlab-.*: .*No space left"):
        Ranks(2).run(programs.total)
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(LaunchError, match=r"1 MB left on the disk of .*set TMPDIR"):
        Ranks(2).run(programs.total)


def test_too_little_memory_is_said_before_a_rank_starts(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks.close()
    monkeypatch.setattr("shardlab.launch.preflight.available_memory", lambda: int(0.24e9))
    with pytest.raises(LaunchError, match=r"4 ranks need about 0.3 GB .*to start; 0.2 are free.*at most 2 ranks"):
        ranks.run(programs.total)
    assert ranks.pids == []
    monkeypatch.undo()
    assert ranks.run(programs.total) == [4.0] * 4


def test_many_small_ranks_are_let_start_and_what_is_left_is_said(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks.close()
    monkeypatch.setattr("shardlab.launch.preflight.available_memory", lambda: int(0.8e9))
    assert ranks.run(programs.total) == [4.0] * 4
    assert "4 ranks share 0.8 GB of free memory: 200 MB each for what the program holds" in capsys.readouterr().out
    monkeypatch.undo()
    ranks.close()
    assert ranks.run(programs.total) == [4.0] * 4
    assert "share" not in capsys.readouterr().out
    monkeypatch.setattr("shardlab.launch.preflight.available_memory", lambda: int(21.6e9))
    preflight.check_room(128, "gloo", tempfile.gettempdir())  # 0.3 GB a rank, which it was, would have refused them


@pytest.mark.timeout(900)
def test_f32_a_hundred_launches_in_a_row(own_temp: Path) -> None:
    """No failure, no descriptor and no memory more than at the start, every rank with exit code 0."""
    kernel = psutil.Process()
    before = now = (0, 0)
    for i in range(105):
        with Ranks(4) as pool:
            assert pool.run(programs.total) == [4.0] * 4
        assert pool.exit_codes == dict.fromkeys(range(4), 0)
        server = psutil.Process(client.server().process.pid)
        now = (kernel.num_fds() + server.num_fds(), kernel.memory_info().rss + server.memory_info().rss)
        if i == 4:
            before = now
    assert now[0] <= before[0]
    assert now[1] <= 1.05 * before[1]


def test_the_limits_of_a_rank(ranks: Ranks) -> None:
    """One thread when ranks outnumber cores, SCHED_BATCH, a session of its own, deaf to SIGINT; the
    environment of now.
    """

    def look(mesh):  # noqa: ANN001, ANN202
        return {
            "threads": torch.get_num_threads(),
            "batch": os.sched_getscheduler(0) == os.SCHED_BATCH,
            "session": os.getsid(0) == os.getpid(),
            "sigint": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
            "mark": os.environ[client.MARKER],
            "new": os.environ.get("SHARDLAB_NEW"),
        }

    ranks.close()
    os.environ["SHARDLAB_NEW"] = "set after the server had started"
    try:
        seen = ranks.run(look)[1]
    finally:
        del os.environ["SHARDLAB_NEW"]
    cores = len(os.sched_getaffinity(0))
    assert seen["threads"] == max(1, cores // 4)
    assert seen["batch"] and seen["session"] and seen["sigint"]
    assert seen["mark"].startswith("shardlab-") and seen["new"]


def test_a_kernel_that_has_computed_can_launch(ranks: Ranks) -> None:
    """A fork of this process would hang now: its threads are gone in the child. Ours come from the server."""
    ranks.close()
    torch.mm(torch.randn(800, 800), torch.randn(800, 800))
    assert ranks.run(programs.total) == [4.0] * 4


def test_a_fork_of_the_kernel_takes_nothing_along(ranks: Ranks) -> None:
    ranks.start()
    pid = os.fork()
    if pid == 0:
        client.close_server()  # what its atexit would do
        os._exit(0)
    os.waitpid(pid, 0)
    assert ranks.run(programs.total) == [4.0] * 4


@pytest.mark.parametrize("after_s", [0.3, 0.6, 0.9, 1.2, 1.8])
def test_a_kernel_that_is_killed_while_it_starts(tmp_path: Path, after_s: float) -> None:
    """The server may still be importing torch, and does not know its kernel yet."""
    run = leftovers.new_run()
    process = script(times=1000, world_size=4, TMPDIR=str(tmp_path), **{leftovers.RUN: run})
    time.sleep(1.0 + after_s)  # the first second is the kernel's own import of torch
    process.kill()
    process.communicate()
    assert leftovers.left(run) == {}
    assert leftovers.folders(tmp_path) == []


def test_a_child_of_the_kernel_does_not_keep_its_ranks_alive(tmp_path: Path) -> None:
    """A fork of the kernel holds its sockets open: the server sees by the kernel's number that it is gone."""
    run = leftovers.new_run()
    code = "import os, time\nfrom shardlab import Ranks\nranks = Ranks(2).start()\n"
    code += "child = os.fork()\nprint(child, flush=True) if child else None\ntime.sleep(1000)"
    environ = {**os.environ, leftovers.RUN: run, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environ, text=True, stdout=-1)
    assert process.stdout is not None
    process.stdout.readline()
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        assert leftovers.left(run, [child]) == {}
        assert leftovers.folders(tmp_path) == []
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_a_pool_that_is_dropped_is_cleaned_up() -> None:
    pool = Ranks(2).start()
    assert pool._live is not None
    pids, folder = pool.pids, pool._live.folder
    del pool
    leftovers.wait_until(lambda: not any(psutil.pid_exists(p) for p in pids), "the ranks' end")
    leftovers.wait_until(lambda: not os.path.exists(folder), "the end of the pool's folder")


def test_plans_and_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"needs 8 ranks, the pool has 2"):
        Ranks(2).run(programs.total, plan=Plan(tp=8))
    with pytest.raises(ValueError, match=r"world_size=0: give a positive number of ranks"):
        Ranks(0)
