"""A real Jupyter kernel, driven as a notebook drives it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

from tests.launch import leftovers


@dataclass
class Reply:
    status: str
    ename: str
    traceback: str
    out: str


class Kernel:
    """A kernel under a mark of its own (`run`), with a temp folder of its own (`temp`)."""

    def __init__(self, temp: Path) -> None:
        self.run, self.temp = leftovers.new_run(), temp
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(
            env={**os.environ, leftovers.RUN: self.run, "TMPDIR": str(temp), "TEMP": str(temp)},
            cwd=str(temp),
        )
        self.client: Any = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=100)

    @property
    def pid(self) -> int:
        provisioner: Any = self.manager.provisioner
        return provisioner.process.pid

    def start(self, code: str) -> str:
        """Send a cell, without waiting for it."""
        return self.client.execute(code)

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()

    def finish(self, cell: str, timeout_s: float = 100.0) -> Reply:
        """Wait for the cell that `start` sent."""
        out = []
        while True:
            message = self.client.get_iopub_msg(timeout=timeout_s)
            if message["parent_header"].get("msg_id") != cell:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                out.append(content["text"])
            if message["msg_type"] == "status" and content["execution_state"] == "idle":
                break
        reply = self.client.get_shell_msg(timeout=timeout_s)
        while reply["parent_header"].get("msg_id") != cell:
            reply = self.client.get_shell_msg(timeout=timeout_s)
        content = reply["content"]
        traceback = "\n".join(content.get("traceback", []))
        return Reply(content["status"], content.get("ename", ""), traceback, "".join(out))

    def cell(self, code: str) -> str:
        """Run a cell that must succeed, and return what it printed."""
        reply = self.finish(self.start(code))
        assert reply.status == "ok", reply.traceback
        return reply.out

    def ready(self) -> Kernel:
        """Wait for a kernel that has been started again."""
        self.client.wait_for_ready(timeout=100)
        return self

    def close(self) -> None:
        self.client.stop_channels()
        if self.manager.is_alive():
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@contextmanager
def kernel(temp: Path) -> Iterator[Kernel]:
    started = Kernel(temp)
    try:
        yield started
    finally:
        started.close()
        assert leftovers.left(started.run) == {}
        assert leftovers.folders(temp) == []
