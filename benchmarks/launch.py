"""What it costs to get four ranks to work, against torch's own `mp.spawn`.

The job is the same on both sides: join a gloo group over a file, all-reduce 1 KB, leave. torch is imported
in the parent before the clock starts; mp.spawn imports it again in every rank, which is most of its time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import torch

from benchmarks import Row
from shardlab import Ranks, comm
from shardlab.comm.mesh import Mesh
from shardlab.launch import client
from shardlab.measure.timer import Stats, interleave, ratio

NUM_RANKS = 4
_LIVE_CALLS = 50


def toy(mesh: Mesh) -> float:
    return comm.all_reduce(torch.ones(256), mesh["tp"])[0].item()


def rows() -> list[Row]:
    with Ranks(NUM_RANKS) as live:
        live.run(toy)
        timed = interleave({"spawn": _spawn, "warm": _warm, "live": lambda: _live(live)}, rounds=5)
    # Last, in rounds of their own pair: a cold start ends the launch server that the others stand on.
    cold = interleave({"spawn": _spawn, "cold": _cold}, rounds=5, warmup=0)
    spawn = timed["spawn"]
    return [
        _row("first start", cold["spawn"], cold["cold"], at_least=3, at_most_s=2.0),
        _row("next start, launch server warm", spawn, timed["warm"], at_least=20, at_most_s=0.5),
        _row("call on the live pool", spawn, timed["live"], at_least=500, at_most_s=0.005),
        Row("C8", f"the same job with mp.spawn, {NUM_RANKS} ranks", str(spawn)),
    ]


def _row(what: str, spawn: Stats, ours: Stats, *, at_least: float, at_most_s: float) -> Row:
    times = ratio(spawn, ours).median_s
    good = times >= at_least and ours.median_s <= at_most_s
    wanted = f">= {at_least:g}x, <= {at_most_s * 1e3:g} ms"
    digits = 0 if times >= 10 else 1
    return Row("C8", f"{what}, {NUM_RANKS} ranks", f"{times:,.{digits}f}x mp.spawn: {ours}", wanted, good)


def _cold() -> None:
    client.close_server()
    _warm()


def _warm() -> None:
    with Ranks(NUM_RANKS) as ranks:
        assert ranks.run(toy)[0] == NUM_RANKS


def _live(ranks: Ranks) -> float:
    """Seconds of one call, averaged over many."""
    started = time.perf_counter()
    for _ in range(_LIVE_CALLS):
        ranks.run(toy)
    return (time.perf_counter() - started) / _LIVE_CALLS


def _spawn() -> float:
    """Seconds of mp.spawn, timed in a Python of its own: the spawned ranks import that one's main module, not ours."""
    code = "from benchmarks.launch import spawn_here; print(spawn_here())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def spawn_here() -> float:
    from torch.multiprocessing.spawn import spawn

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        spawn(_spawned, (os.path.join(folder, "store"),), nprocs=NUM_RANKS)
        return time.perf_counter() - started


def _spawned(rank: int, store: str) -> None:
    import torch.distributed as dist

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=NUM_RANKS)
    total = torch.ones(256)
    dist.all_reduce(total)
    assert total[0].item() == NUM_RANKS
    dist.destroy_process_group()
