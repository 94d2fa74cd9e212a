"""wire on sockets of our own: every byte that we sent is counted, and nobody else's."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from shardlab.launch import wire

READABLE, WHY = wire.available()
needs_counters = pytest.mark.skipif(not READABLE, reason=WHY)

# Two processes and one connection. Each line on stdin is a number of bytes to send; "take N" receives N.
PEER = """
import socket, sys
family, role, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
host = "127.0.0.1" if family == socket.AF_INET else "::1"
if role == "listen":
    server = socket.create_server((host, 0), family=family)
    print(server.getsockname()[1], flush=True)
    conn, _ = server.accept()
else:
    conn = socket.create_connection((host, port))
    print("joined", flush=True)
for line in sys.stdin:
    verb, count = line.split()
    if verb == "send":
        conn.sendall(bytes(int(count)))
    else:
        left = int(count)
        while left:
            left -= len(conn.recv(min(left, 1 << 20)))
    print("done", flush=True)
"""


class Peer:
    def __init__(self, stack: ExitStack, family: int, role: str, port: int = 0) -> None:
        self.process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", PEER, str(family), role, str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(self.process.kill)
        self.hello = self.answer()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


@contextmanager
def connected(family: int) -> Iterator[tuple[Peer, Peer]]:
    with ExitStack() as stack:
        listener = Peer(stack, family, "listen")
        yield listener, Peer(stack, family, "join", int(listener.hello))


def exchange(sender: Peer, receiver: Peer, num_bytes: int) -> None:
    sender.say(f"send {num_bytes}")
    receiver.say(f"take {num_bytes}")
    assert sender.answer() == receiver.answer() == "done"


@needs_counters
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_every_byte_is_counted_once_in_its_direction(family: int) -> None:
    try:
        with connected(family) as (a, b):
            pids = [a.process.pid, b.process.pid]
            exchange(a, b, 777)  # before the first snapshot: not counted
            before = wire.snapshot(pids)
            exchange(a, b, 5_000_000)
            exchange(b, a, 12_345)
            exchange(a, b, 1)
            after = wire.snapshot(pids)
    except ValueError:
        pytest.skip("no IPv6 loopback")
    assert before.settled and after.settled
    assert wire.matrix(before, after).tolist() == [[0, 5_000_001], [12_345, 0]]


@needs_counters
def test_strangers_are_not_counted() -> None:
    with connected(socket.AF_INET) as (a, b), connected(socket.AF_INET) as (c, d):
        pids = [a.process.pid, b.process.pid]
        before = wire.snapshot(pids)
        exchange(c, d, 3_000_000)
        exchange(a, b, 10)
        after = wire.snapshot(pids)
        assert wire.matrix(before, after).tolist() == [[0, 10], [0, 0]]
        # a rank's connection to someone who is no rank has no place in the matrix
        half = [a.process.pid, c.process.pid]
        before = wire.snapshot(half)
        exchange(a, b, 999)
        assert wire.matrix(before, wire.snapshot(half)).sum() == 0


@needs_counters
def test_a_connection_opened_in_between_counts_from_zero() -> None:
    with ExitStack() as stack:
        listener = Peer(stack, socket.AF_INET, "listen")
        me = os.getpid()
        before = wire.snapshot([me, listener.process.pid])
        with socket.create_connection(("127.0.0.1", int(listener.hello))) as conn:
            conn.sendall(bytes(4321))
            listener.say("take 4321")
            assert listener.answer() == "done"
            after = wire.snapshot([me, listener.process.pid])
        assert wire.matrix(before, after).tolist() == [[0, 4321], [0, 0]]


@needs_counters
def test_bytes_that_the_peer_has_not_taken_are_not_counted_as_settled() -> None:
    with connected(socket.AF_INET) as (a, b):
        pids = [a.process.pid, b.process.pid]
        a.say("send 200000000")  # far beyond the buffers, and b takes nothing
        assert not wire.snapshot(pids, settle_s=0.2).settled
        b.say("take 200000000")
        assert a.answer() == b.answer() == "done"
        assert wire.snapshot(pids).settled


@needs_counters
def test_reads_inside_a_running_event_loop() -> None:
    async def cell() -> wire.Snapshot:  # a notebook's cell runs inside one
        return wire.snapshot([os.getpid()])

    assert asyncio.run(cell()).settled


def test_ipv4_inside_ipv6_is_the_same_end() -> None:
    assert wire._endpoint(("::ffff:127.0.0.1", 80)) == wire._endpoint(("127.0.0.1", 80)) == ("127.0.0.1", 80)


def test_snapshots_of_different_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="different ranks"):
        wire.matrix(wire.Snapshot((1,), ({},)), wire.Snapshot((2,), ({},)))


def test_old_kernels_fall_back_to_acknowledged_bytes() -> None:
    assert wire._bytes_sent({"tcpi_bytes_sent": 12, "tcpi_bytes_retrans": 2}) == (10, False)
    assert wire._bytes_sent({"tcpi_bytes_acked": 7, "tcpi_unacked": 1}) == (7, True)
    with pytest.raises(wire.WireUnavailable, match="no byte count"):
        wire._bytes_sent({})


def test_what_cannot_be_read_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert wire.available() == (False, "socket counters are read on Linux only, and this is darwin")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyroute2", None)
        readable, why = wire.available()
        assert not readable and why == "pyroute2 is not installed"
    with monkeypatch.context() as patch:
        patch.setattr(wire, "_dump", list)
        readable, why = wire.available()
        assert not readable and "sandbox" in why
    with pytest.raises(wire.WireUnavailable, match="is gone"):
        wire.snapshot([2**22 + 1])


def test_a_process_that_hides_its_sockets_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(wire.WireUnavailable, match="no permission to read /proc/1/fd"):
        wire.snapshot([1])


def test_a_kernel_that_refuses_diagnostics_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyroute2

    class Refusing:
        def __init__(self) -> None:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(pyroute2, "DiagSocket", Refusing)
    with pytest.raises(wire.WireUnavailable, match="refuses socket diagnostics here"):
        wire.snapshot([os.getpid()])
