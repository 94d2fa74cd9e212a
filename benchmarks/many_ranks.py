"""C24: many ranks on few cores: the all_reduce that the axis chooses against gloo's, the start, a rank's memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import torch

from benchmarks import Row
from shardlab import Plan, Ranks, comm
from shardlab.algorithms import available, carriers
from shardlab.comm.mesh import Mesh
from shardlab.measure.machine import num_cores
from shardlab.measure.timer import Stats, ratio, slowest

WANTED = {16: (5.0, 8.0), 32: (8.0, 15.0), 64: (10.0, 25.0)}  # ranks -> least, aim
SIZES = (1 << 10, 1 << 14, 1 << 18)
MOST, START_S, RANK_MIB = max(WANTED), 4.0, 16.0
_ROUNDS, _CALLS = 5, 10


def rows() -> list[Row]:
    fine, why = available()
    if not fine:
        return [Row("C24", "all_reduce of many ranks in shared memory against gloo", why)]
    found = []
    with Ranks(MOST, "gloo", timeout_s=1800.0) as ranks:
        ranks.start()  # the server that forks them is there from now on
        ranks.close()
        started = time.perf_counter()
        ranks.start()
        start_s = time.perf_counter() - started
        found += [_start_row(start_s), _memory_row(ranks)]
        for tp, (least, aim) in WANTED.items():
            gains = [gain(ranks, tp, num_bytes) for num_bytes in SIZES]
            measured = ", ".join(
                f"{size >> 10} KiB {one.median_s:.0f}x" for size, one in zip(SIZES, gains, strict=True)
            )
            what = f"all_reduce by the axis's chosen collectives against gloo, {tp} ranks on {num_cores()} cores"
            met = min(one.median_s for one in gains) >= least
            found.append(Row("C24", what, measured, f">= {least:g}x, aim {aim:g}x", met))
    return found


def gain(ranks: Ranks, tp: int, num_bytes: int, rounds: int = _ROUNDS) -> Stats:
    """How many times faster the chosen all_reduce is than gloo's, round by round, as the slowest rank saw both."""
    per_rank = ranks.run(both, num_bytes, rounds, plan=Plan(tp=tp), check=False)
    gloo, chosen = (Stats(tuple(map(slowest, zip(*(one[which] for one in per_rank), strict=True)))) for which in (0, 1))
    return ratio(gloo, chosen)


def both(mesh: Mesh, num_bytes: int, rounds: int) -> tuple[list[float], list[float]]:
    """On every rank: (seconds of gloo's all_reduce, of the chosen one), in turns; the first round is not counted."""
    plain, own = mesh["tp"], mesh.carried(carriers.cheapest)["tp"]
    tensor = torch.zeros(num_bytes // 4)
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            axis, calls = ((plain, 1), (own, _CALLS))[which]  # one of gloo's takes as long as many of the other
            comm.all_reduce(torch.zeros(1), own)  # together, within less than a millisecond
            seconds = _seconds(lambda axis=axis: comm.all_reduce(tensor, axis), calls)
            if number:
                found[which].append(seconds)
    return found


def _seconds(call: Callable[[], object], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls


def _start_row(start_s: float) -> Row:
    what = f"start of {MOST} ranks on {num_cores()} cores, the launch server running"
    return Row("C24", what, f"{start_s:.1f} s", f"<= {START_S:g} s, aim 2 s", start_s <= START_S)


def _memory_row(ranks: Ranks) -> Row:
    """After one run of every rank, with its collectives in shared memory."""
    ranks.run(_one_sum, check=False, collectives="cheapest")
    pss_mib = mean(_pss_bytes(pid) for pid in ranks.pids) / 2**20
    what = f"memory of a rank (its share of what it shares included), {MOST} ranks, after one run"
    return Row("C24", what, f"{pss_mib:.1f} MiB", f"<= {RANK_MIB:g} MiB, aim 8 MiB", pss_mib <= RANK_MIB)


def _one_sum(mesh: Mesh) -> float:
    return comm.all_reduce(torch.ones(3), mesh["tp"])[0].item()


def _pss_bytes(pid: int) -> int:
    """Proportional set size: pages that n processes map count as an nth of each."""
    found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
