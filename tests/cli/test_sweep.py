"""`shardlab sweep`: mistakes are answered at once, and an interrupted sweep prints and writes what it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from shardlab.algorithms import IMPLEMENTATIONS
from shardlab.cli.sweep import IMPLEMENTED, MOST_ROUNDS
from shardlab.measure import point
from shardlab.sweep import driver as measured

NOWHERE = Path(__file__).parent / "no_such_folder"
SWEEP = [sys.executable, "-m", "shardlab", "sweep"]


def environment() -> dict[str, str]:
    outside = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return {**outside, "COLUMNS": "250"}


def sweep(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", *SWEEP[1:], *args]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, timeout=280)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ["--op", "all_in"],
            "--op all_in; allowed: all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, send",
        ),
        (["--op", "send,all_in"], "--op all_in; allowed: "),
        (["--op", "broadcast", "--algorithm", "ring"], "--algorithm ring; allowed: binomial_tree, one_shot"),
        (["--transport", "pigeon"], "--transport pigeon; allowed: backend, send_recv, shared_memory"),
        (
            ["--op", "broadcast", "--algorithm", "binomial_tree", "--transport", "shared_memory"],
            "--algorithm binomial_tree --transport shared_memory; allowed: binomial_tree over backend, ",
        ),
        (["--ranks", "1"], "--ranks 1; allowed: numbers from 2 to 64, with commas between, like 2,4"),
        (["--ranks", "65"], "--ranks 65; allowed: numbers from 2 to 64"),
        (["--ranks", "2,two"], "--ranks 2,two; allowed: numbers from 2 to 64"),
        (["--min", "1X"], "'1X' is not a size; allowed: a number of bytes, or one with K, M, G"),
        (["--max", "-1M"], "'-1M' is not a size"),
        (["--min", "4M", "--max", "1M"], "--min is 4194304 bytes and --max 1048576; allowed: a --max of --min or more"),
        (["--max", "900000G"], "--max 966367641600000 bytes: 4 ranks have memory for sizes up to"),
        (["--step", "1"], "--step 1; allowed: 2 or more"),
        (["--step", "half"], "'half' is not an integer of 1 or more"),
        (["--rounds", "0"], "'0' is not an integer of 1 or more"),
        (["--rounds", "1001"], "--rounds 1001; allowed: 1..1000"),
        (["--budget", "60"], "'60' is not a time; allowed: a number with ns, us, ms, s, min or h, like 50ms"),
        (["--csv", f"{NOWHERE}/all.csv"], f"--csv {NOWHERE}/all.csv: there is no folder {NOWHERE}; allowed: a file in"),
        (["--csv", "/"], "--csv / is a folder; allowed: a file in a folder that exists"),
        (["--csv", __file__], "not those of a sweep; allowed: a new file, or one that a sweep has written"),
        (["--bandwidth"], "--bandwidth"),
    ],
)
def test_a_mistake_is_answered_without_loading_torch(args: list[str], words: str) -> None:
    done = sweep(*args)
    said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    assert done.returncode == 2
    assert words in said
    assert "Traceback" not in done.stderr and not done.stdout
    imported = {line.split("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not {"torch", "numpy", "scipy"} & imported


def test_the_names_here_are_those_that_are_implemented() -> None:
    here = {(op, name, over) for over, ops in IMPLEMENTED.items() for op, names in ops.items() for name in names}
    assert here == {(one.op, one.algorithm, one.transport) for one in IMPLEMENTATIONS}
    assert MOST_ROUNDS == measured.MOST_ROUNDS


@pytest.mark.ranks
def test_a_table_and_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    chosen = ["--op", "all_reduce,send", "--transport", "backend", "--transport", "shared_memory"]
    done = sweep(*chosen, "--ranks", "2,3", "--min", "1K", "--max", "16K", "--rounds", "1", "--csv", str(path))
    assert done.returncode == 0, done.stderr[-2000:]
    points = point.read(path)
    assert {one.implementation for one in points} == {
        ("all_reduce", "ring", "backend"),
        ("all_reduce", "one_shot", "shared_memory"),
        ("all_reduce", "two_shot", "shared_memory"),
        ("send", "one_shot", "backend"),
        ("send", "one_shot", "shared_memory"),
    }
    assert {(one.world_size, one.num_bytes) for one in points} == {
        *((2, size) for size in (1024, 4096, 16384)),
        *((3, size) for size in (1020, 4092, 16380)),
    }
    for title in ("all_reduce on 2 ranks", "send on 2 ranks", "all_reduce on 3 ranks", "send on 3 ranks"):
        assert title in done.stdout
    for one in points:  # the bytes of the CSV are the bytes of the table, the formula's beside them
        assert f"{one.sent_bytes:,}" in done.stdout and f"{one.formula_bytes:,.0f}" in done.stdout
    assert "ranks on gloo" not in done.stdout and "30 rows written" in done.stderr


@pytest.mark.ranks
def test_ctrl_c_keeps_what_was_measured_and_leaves_no_process(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    args = ["--op", "all_reduce", "--transport", "backend,shared_memory", "--ranks", "2", "--max", "256K"]
    command = [*SWEEP, *args, "--rounds", "1000", "--csv", str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as running:
        started: list[psutil.Process] = []
        deadline = time.monotonic() + 250
        while not timing(started := family(running.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2)
        running.send_signal(signal.SIGINT)
        try:
            out, err = running.communicate(timeout=250)
        finally:
            running.kill()
    assert running.returncode == 130, err
    assert "error: interrupted" in err and "Traceback" not in err
    points = point.read(path)
    assert {one.algorithm for one in points} == {"ring", "one_shot", "two_shot"}
    assert all(1 <= one.rounds < 1000 for one in points)
    assert f"{len(points)} rows written" in err and "all_reduce on 2 ranks" in out
    assert len(started) > 2
    psutil.wait_procs(started, timeout=250)
    assert [process for process in started if process.is_running()] == []


def family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def timing(processes: list[psutil.Process]) -> bool:
    """Whether a rank has the journal of the samples open: counting is over."""
    for process in processes:
        try:
            if any("shardlab-sweep-" in region.path for region in process.memory_maps()):
                return True
        except psutil.Error:
            continue
    return False
