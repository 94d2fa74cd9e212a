"""The notebook's side of the launch server: one server a notebook, started when first needed, ended with it."""

from __future__ import annotations

import atexit
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
from typing import Any

from shardlab.launch import frames
from shardlab.launch.preflight import make_root
from shardlab.launch.reloads import Modules
from shardlab.launch.server import sweep

MARKER = "SHARDLAB_RANK_OF"  # in the environment of the server, of every rank, and of what a rank starts
_MAIN = (
    "import gc, json, sys; gc.disable(); fd, root, parent, path = sys.argv[1:]; "
    "sys.path[:] = json.loads(path); "
    "from shardlab.launch.server import main; main(int(fd), root, int(parent))"
)
_END_S = 2.0


class Server:
    """A running launch server. Its end of the socket is the only thing that keeps it alive."""

    def __init__(self) -> None:
        """Start it, without waiting for it. Raises LaunchError when there is no folder to work in."""
        self.owner = os.getpid()
        self.root = make_root()
        sweep()
        self.num_pools = 0
        self.modules = Modules()  # from now on the server and its ranks import, and a reload here leaves them behind
        self._lock = threading.Lock()
        self._requests, theirs = socket.socketpair()
        with theirs, open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                # -P: the folder that the notebook happens to be in must not shadow a module
                [
                    sys.executable,
                    "-P",
                    "-c",
                    _MAIN,
                    str(theirs.fileno()),
                    self.root,
                    str(self.owner),
                    _path(),
                ],
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # the terminal's Ctrl-C and the notebook's Stop do not reach it
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, MARKER: os.path.basename(self.root)},
            )

    @property
    def log(self) -> str:
        return os.path.join(self.root, "server.log")

    @property
    def alive(self) -> bool:
        return self.owner == os.getpid() and self.process.poll() is None

    def make_folder(self) -> str:
        """A new folder for a pool."""
        with self._lock:
            self.num_pools += 1
            folder = os.path.join(self.root, f"pool{self.num_pools}")
        os.mkdir(folder, 0o700)
        return folder

    def start_pool(self, config: dict[str, Any], control: socket.socket, ranks: list[socket.socket]) -> None:
        """Ask for a pool; the answers come over the control socket's other end. OSError: the server is gone."""
        with self._lock:
            frames.send(self._requests, pickle.dumps(config), (control.fileno(), *(r.fileno() for r in ranks)))

    def close(self) -> None:
        """End the server: it kills what ranks it has, and removes its folder."""
        if self.owner != os.getpid():
            return  # a fork of the notebook: not ours to end
        self._requests.close()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.root, ignore_errors=True)


_server: Server | None = None


def server() -> Server:
    """The notebook's server, started afresh if there is none, or if what it has imported has been reloaded here."""
    global _server
    if _server is None or not _server.alive or _server.modules.reloaded():
        if _server is not None:
            _server.close()
        else:
            atexit.register(close_server)
        _server = None
        _server = Server()
    return _server


def close_server() -> None:
    """End the launch server, and with it every rank of this notebook. The next pool starts another."""
    global _server
    ending, _server = _server, None
    if ending is not None:
        ending.close()


def _path() -> str:
    return json.dumps([os.path.abspath(entry) for entry in sys.path])
