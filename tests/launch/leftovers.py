"""What a run has left behind: processes, by a variable in their environment, and folders."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found", dict[int, str], list[str])
WITHIN_S = 60.0  # long: a busy machine takes its time to end a process. Looking ends when the last one has gone
RUN = "SHARDLAB_TEST_RUN"  # set by a test, inherited by its kernel, its launch server and its ranks


def processes(run: str) -> dict[int, str]:
    """Process number -> name, of all that were started under `run` (zombies have no environment)."""
    needle = f"{RUN}={run}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if needle in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
            except OSError:
                continue
    return found


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def left(run: str, allowed: Iterable[int] = (), within_s: float = WITHIN_S) -> dict[int, str]:
    """Processes of `run` that are there after `within_s`, but for `allowed` ones."""
    return _settled(lambda: {p: n for p, n in processes(run).items() if p not in set(allowed)}, within_s)


def ranks_left(run: str, kernel: int, within_s: float = WITHIN_S) -> dict[int, str]:
    """Like left(), of a kernel that goes on with its launch server: what neither of these two is."""
    own = lambda p: p == kernel or parent(p) == kernel  # noqa: E731
    return _settled(lambda: {p: n for p, n in processes(run).items() if not own(p)}, within_s)


def folders(
    where: Path | str, within_s: float = WITHIN_S, pattern: str = "shardlab-*", wanted: Iterable[str] = ()
) -> list[str]:
    """Folders of launch servers (or of pools, with another pattern): those `wanted`, or what is there at the end."""
    return _settled(lambda: sorted(str(p) for p in Path(where).glob(pattern)), within_s, sorted(wanted))


def _settled(look: Callable[[], Found], within_s: float, wanted: list[str] | None = None) -> Found:
    end = time.monotonic() + within_s
    while True:
        found = look()
        if (found == wanted if wanted else not found) or time.monotonic() > end:
            return found
        time.sleep(0.05)


def wait_until(happened: Callable[[], bool], what: str, within_s: float = WITHIN_S) -> None:
    """Wait for an event. AssertionError names it when it does not come."""
    end = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < end, f"{what}: not within {within_s:g} s"
        time.sleep(0.02)


def new_run() -> str:
    return os.urandom(8).hex()
