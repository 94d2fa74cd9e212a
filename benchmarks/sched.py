"""SCHED_BATCH, the scheduling class that every rank takes, against the default one.

Where ranks outnumber cores, a collective is a relay: each rank waits for its neighbour. The default class
lets a rank that has just been woken push out the one that runs, which is often the one that everybody waits
for. SCHED_BATCH does not; it needs no privilege.
"""

from __future__ import annotations

import torch

from benchmarks import Row
from shardlab import Ranks, comm
from shardlab.comm.mesh import Mesh
from shardlab.measure.device_clock import seconds_on
from shardlab.measure.machine import num_cores
from shardlab.measure.timer import interleave, ratio, slowest

NUM_RANKS = 4
_SIZES = (1 << 10, 16 << 10, 256 << 10)  # bytes
_CALLS = 30


def all_reduces(mesh: Mesh, num_bytes: int, calls: int) -> float:
    """Seconds of one all_reduce, averaged over `calls`."""
    tensor = torch.zeros(num_bytes // 4)
    comm.barrier(mesh["tp"])
    return seconds_on(mesh.device, lambda: comm.all_reduce(tensor, mesh["tp"]), calls)


def rows() -> list[Row]:
    found = []
    with Ranks(NUM_RANKS, "gloo") as batch, Ranks(NUM_RANKS, "gloo", batch=False) as default:
        for num_bytes in _SIZES:
            timed = interleave(
                {
                    "batch": lambda size=num_bytes: _seconds(batch, size),
                    "default": lambda size=num_bytes: _seconds(default, size),
                },
                rounds=7,
            )
            gain = ratio(timed["default"], timed["batch"]).median_s
            what = f"SCHED_BATCH, all_reduce of {num_bytes >> 10} KiB, {NUM_RANKS} ranks on {num_cores()} cores"
            measured = f"{gain:.1f}x: {timed['batch']} against {timed['default']}"
            found.append(Row("C3", what, measured, ">= 2.5x", gain >= 2.5))
    return found


def _seconds(ranks: Ranks, num_bytes: int) -> float:
    return slowest(ranks.run(all_reduces, num_bytes, _CALLS, check=False))
