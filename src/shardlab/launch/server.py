"""The launch server: a small process beside the notebook that forks ranks, and that cleans up after everybody.

It has torch imported and nothing else done: no CUDA call, no computation, one thread. So a fork of it is a
rank in a few milliseconds, whatever the notebook itself has done (a notebook that has run a matmul, or that has
CUDA initialised, must never be forked). It is not multiprocessing's forkserver, because that one imports
the user's `__main__`, and lives on as long as any of its children holds its pipe, which a stopped child
does for ever.

Ownership is a socket a pool. The notebook holds one end, the server the other. The server kills the pool's
ranks (SIGKILL, which a stopped process obeys too) and removes the pool's files when it reads "kill", when
the socket closes, and when the notebook is gone, however it went: exit, restart, kill -9. If the server is
killed, its ranks die with it (PR_SET_PDEATHSIG), and the next server sweeps up the files.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import pickle
import select
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

from shardlab.launch import boot, frames

# What every rank uses, loaded once: whatever it would load by itself, it would hold by itself (numpy.random: 4 MB).
PRELOAD = (
    "torch", "torch.distributed", "torch.utils._device", "numpy", "numpy.random", "cloudpickle", "shardlab.launch.boot"
)  # fmt: skip
PREFIX = "shardlab-"  # of the private folders in the temp folder
LOCK = "lock"  # held by the server that owns the folder
_PARENT_CHECK_S = 0.5  # its end is seen at once by the socket; this is for when a child of it holds that open
_SWEEP_AGE_S = 60.0


@dataclass
class _Pool:
    """One pool of ranks: its socket to the notebook, its folder, and its processes."""

    control: socket.socket
    folder: str
    ranks: dict[int, int] = field(default_factory=dict)  # pid -> rank, of those alive

    def tell(self, message: tuple[Any, ...]) -> None:
        try:
            frames.send(self.control, pickle.dumps(message))
        except OSError:  # the notebook has gone, or has dropped the pool: its socket says so too
            pass


def main(server_fd: int, root: str, parent_pid: int) -> None:
    """Serve until the notebook is gone. `root` is the private folder that this server makes and removes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C and the Stop button are for the notebook
    lock = os.open(os.path.join(root, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        for name in PRELOAD:
            importlib.import_module(name)
        gc.freeze()  # the ranks share these pages; a collection must not write to them
        gc.enable()  # it was off since the first line of this process: imports are a tenth faster
        _Server(socket.socket(fileno=server_fd), parent_pid, (lock,)).serve()
    finally:
        shutil.rmtree(root, ignore_errors=True)


class _Server:
    def __init__(self, requests: socket.socket, parent_pid: int, fds: tuple[int, ...]) -> None:
        self._requests, self._parent_pid, self._pid = requests, parent_pid, os.getpid()
        self._pools: list[_Pool] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ)
        # A child's end wakes the loop through this descriptor; the signal's handler itself does nothing.
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._own_fds = (*fds, self._wake_read, self._wake_write)

    def serve(self) -> None:
        try:
            while os.getppid() == self._parent_pid:
                for key, _ in self._selector.select(_PARENT_CHECK_S):
                    if key.fileobj is self._requests:
                        if not self._start_pool():
                            return
                    elif key.fileobj == self._wake_read:
                        os.read(self._wake_read, 4096)
                        self._reap()
                    elif key.data in self._pools:
                        self._hear(key.data)
        finally:
            for pool in tuple(self._pools):
                self._end(pool)

    def _start_pool(self) -> bool:
        """Fork the ranks of a new pool; False when the notebook is gone.

        The request carries the control socket, then one socket a rank.
        """
        try:
            message = frames.receive_with_fds(self._requests)
        except OSError:
            message = None
        if message is None:
            return False
        payload, (control_fd, *rank_fds) = message
        config = pickle.loads(payload)  # noqa: S301  (from the notebook, over our own socket pair)
        pool = _Pool(socket.socket(fileno=control_fd), config["folder"])
        self._pools.append(pool)
        self._selector.register(pool.control, selectors.EVENT_READ, pool)
        if select.select([pool.control], [], [], 0)[0]:  # dropped while we were importing: do not even start
            for fd in rank_fds:
                os.close(fd)
            rank_fds = []
        sys.stdout.flush()
        sys.stderr.flush()
        for rank, fd in enumerate(rank_fds):
            pid = os.fork()
            if pid == 0:
                self._become_rank(rank, fd, [f for f in rank_fds if f != fd], config)
            pool.ranks[pid] = rank
        for fd in rank_fds:
            os.close(fd)
        pool.tell(("started", {rank: pid for pid, rank in pool.ranks.items()}))
        return True

    def _become_rank(self, rank: int, fd: int, others: list[int], config: dict[str, Any]) -> None:
        """In the child: drop everything of the server's, and be a rank. Never returns."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            # As long as a rank held the server's or a pool's socket, nobody would see that one close.
            for closing in (*others, *self._own_fds, self._requests, *(p.control for p in self._pools)):
                closing.close() if isinstance(closing, socket.socket) else os.close(closing)

            status = boot.main(rank, fd, parent=self._pid, config=config)
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)

    def _reap(self) -> None:
        """Collect the children that have ended, and tell their pools: (rank, status, when)."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            now, pid = time.monotonic(), ended.si_pid
            kill_rank(pid)  # what the rank itself started; not reaped yet, its number is still its own
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            for pool in self._pools:
                if pid in pool.ranks:
                    pool.tell(("ended", pool.ranks.pop(pid), code, now))

    def _hear(self, pool: _Pool) -> None:
        try:
            message = frames.receive(pool.control)
        except OSError:
            message = None
        self._end(pool)
        if message is not None:  # "kill" is all that a notebook ever says
            pool.tell(("killed",))
        pool.control.close()

    def _end(self, pool: _Pool) -> None:
        """Kill and reap the pool's ranks, with what they started in their sessions, and remove its files."""
        self._pools.remove(pool)
        self._selector.unregister(pool.control)
        for pid in pool.ranks:
            kill_rank(pid)
        for pid in pool.ranks:
            os.waitpid(pid, 0)
        shutil.rmtree(pool.folder, ignore_errors=True)


def kill_rank(pid: int) -> None:
    """SIGKILL a rank and its process group (it leads one, unless it has only just been forked)."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def sweep() -> None:
    """Remove the folders of servers that are gone and could not do it themselves (killed together with
    their notebook).
    """
    for entry in os.scandir(tempfile.gettempdir()):
        try:
            ours = entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False)
            status = entry.stat(follow_symlinks=False)
            if not ours or status.st_uid != os.getuid() or time.time() - status.st_mtime < _SWEEP_AGE_S:
                continue
            fd = os.open(os.path.join(entry.path, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its server lives
                shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(fd)
        except OSError:
            continue
