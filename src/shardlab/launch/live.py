"""The processes behind a pool while they live, and all that has to be given back with them."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from shardlab.comm.table import Row, Table
from shardlab.launch import frames, pickles
from shardlab.launch.boot import output_file
from shardlab.launch.carried import Maker
from shardlab.launch.client import Server
from shardlab.launch.errors import LaunchError
from shardlab.launch.frames import Channel
from shardlab.launch.gather import Gather
from shardlab.launch.server import kill_rank
from shardlab.theory.degrees import Plan

_KILL_S = 2.0
_STOP_S = 1.0
_LARGE_CALL = 1 << 20  # bytes; above it the call is written to a file once, rather than to every rank's socket
_MOST_OUTPUT = 1 << 20  # bytes of a rank's output that are printed after one run


class Live:
    """One start of a pool: sockets to the launch server and to each rank, the flight table, the folder."""

    def __init__(self, server: Server, world_size: int, backend: str, batch: bool) -> None:
        """Ask the server for the ranks, without waiting for them. Raises OSError when the disk is full."""
        self.server, self.world_size = server, world_size
        self.pids: dict[int, int] = {}
        self.plans: set[Plan] = set()
        self.carried: set[tuple[Plan, Maker]] = set()  # plans whose axes have carriers, by what made them
        self.folder = server.make_folder()
        try:
            self._open(backend, batch)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _open(self, backend: str, batch: bool) -> None:
        server, world_size = self.server, self.world_size
        self.flight = Table(os.path.join(self.folder, "flight"), world_size)
        self._outputs = [open(output_file(self.folder, rank), "w+b") for rank in range(world_size)]
        config = {
            "pool": f"{os.path.basename(server.root)}.{os.path.basename(self.folder)}",
            "folder": self.folder,
            "world_size": world_size,
            "backend": backend,
            "batch": batch,
            "cwd": os.getcwd(),
            "sys_path": [os.path.abspath(entry) for entry in sys.path],
            "environ": dict(os.environ),
        }
        pairs = [socket.socketpair() for _ in range(world_size + 1)]
        self.control, *self.ranks = [Channel(ours) for ours, _ in pairs]
        theirs = [pair[1] for pair in pairs]
        try:
            server.start_pool(config, theirs[0], theirs[1:])
        finally:
            for sock in theirs:
                sock.close()

    def gather(self, active: Sequence[int] | None = None) -> Gather:
        return Gather(self.control, self.ranks, range(self.world_size) if active is None else active, self.pids)

    @contextmanager
    def asked(self, run: int, plan: Plan, check: bool, call: bytes | None, active: Sequence[int]) -> Iterator[Gather]:
        """Have the ranks in `active` run `call`: whose replies to gather. Afterwards what they printed is shown."""
        where: bytes | str | None = call
        if call is not None and len(call) > _LARGE_CALL:
            where = os.path.join(self.folder, f"call{run}")
            with open(where, "wb") as file:
                file.write(call)
        request = frames.frame(pickles.dumps(("run", run, plan, check, where)))
        for rank in active:
            self.ranks[rank].put(request)
            self.ranks[rank].write()
        try:
            yield self.gather(active)
        finally:
            self.print_output()
            if isinstance(where, str):
                os.unlink(where)

    @property
    def healthy(self) -> bool:
        """Whether the server and every rank live."""
        try:
            return self.server.alive and self.gather().poll()
        except LaunchError:
            return False

    def rows(self, run: int, num_ranks: int) -> list[Row]:
        """The flight table of run number `run`; a rank that has not begun it has done nothing yet."""
        rows = self.flight.rows()[:num_ranks]
        return [row if row.run == run else Row(row.rank, run, 0.0, 0.0, ()) for row in rows]

    def print_output(self) -> None:
        """What the ranks have printed since the last time, rank by rank."""
        for rank, file in enumerate(self._outputs):
            if data := file.read(_MOST_OUTPUT):
                if left_out := os.fstat(file.fileno()).st_size - file.tell():
                    data += b"\n... and %d bytes more" % left_out
                    file.seek(0, os.SEEK_END)
                for line in data.decode(errors="replace").splitlines():
                    print(f"[rank {rank}] {line}")

    def stop(self) -> dict[int, int]:
        """Ask the ranks to leave their process group and exit: rank -> exit code, of those that did in a second."""
        request = frames.frame(pickles.dumps(("stop",)))
        for channel in self.ranks:
            channel.put(request)
        return self.gather().wait_for_exits(time.monotonic() + _STOP_S)

    def kill(self) -> None:
        """SIGKILL every rank, stopped or not, and wait until they are gone and their folder with them."""
        gone = False
        try:
            # Until the server has said that they run there is nothing to wait for: it looks before it forks.
            self.control.sock.settimeout(_KILL_S if self.pids else 0.0)
            frames.send(self.control.sock, b"kill")
            while not gone:
                gone = not self.control.sock.recv(65536)  # the server closes the socket when all is done
        except OSError:
            pass
        if self.pids and not gone and self.server.alive:  # the server does not answer: its work is ours
            for pid in self.pids.values():
                kill_rank(pid)
            self.server.process.kill()
        for closing in (self.control, *self.ranks, *self._outputs, self.flight):
            closing.close()
        shutil.rmtree(self.folder, ignore_errors=True)
