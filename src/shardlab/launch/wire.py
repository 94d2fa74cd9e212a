"""Who sent how many bytes to whom: the operating system's own counters of the ranks' sockets.

Every TCP socket carries a count of the bytes it has sent (TCP_INFO). Linux hands the counts of all
sockets to any user through sock_diag, and /proc/PID/fd says which process holds which socket. A snapshot
before a program and one after it, subtracted pair by pair, is what the program put on the wire: nothing
else on the machine can disturb it.

What is counted is the TCP payload, each byte once: retransmissions are taken off, TCP/IP headers were
never in. gloo's own framing is inside the payload, and shows below about 64 KiB a message.

Only TCP is read, so only gloo (and NCCL over sockets) shows up. NVLink and InfiniBand keep counters
elsewhere. Source: linux/tcp.h (struct tcp_info), linux/inet_diag.h.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Endpoint = tuple[str, int]  # address, port
Pair = tuple[Endpoint, Endpoint]  # local end, far end: names one connection seen from one side

_INET_DIAG_INFO = 2  # the one extension we ask for: struct tcp_info
SETTLE_S = 30.0  # a busy machine takes its time to send what a program has left with gloo's thread
_LISTEN = 10  # TCP_LISTEN in include/net/tcp_states.h: no peer, no bytes


class WireUnavailable(RuntimeError):
    """The operating system's socket counters cannot be read here. The message says why, in one line."""


@dataclass(frozen=True)
class Snapshot:
    """Bytes that each connection of the ranks has sent since it was opened.

    `sent[rank]` maps (local end, far end) to bytes. `settled` is False when the counters still moved at
    the deadline.
    """

    pids: tuple[int, ...]
    sent: tuple[dict[Pair, int], ...] = field(repr=False)
    settled: bool = True


def snapshot(pids: Sequence[int], *, settle_s: float = SETTLE_S) -> Snapshot:
    """Read the counters of the processes `pids` (rank i is pids[i]), once they have stopped moving.

    A program's last message may still be on its way when the program returns, so two equal reads in a
    row are asked for, with nothing left unsent. Raises WireUnavailable where the counters cannot be
    read.
    """
    deadline = time.monotonic() + settle_s
    previous: Snapshot | None = None
    while True:
        current, quiet = _read(pids)
        if previous is not None and quiet and current.sent == previous.sent:
            return current
        if time.monotonic() > deadline:
            return Snapshot(current.pids, current.sent, settled=False)
        previous = current
        time.sleep(0.002)


def try_snapshot(pids: Sequence[int]) -> Snapshot | str:
    """snapshot(pids), or why there is none."""
    try:
        return snapshot(pids)
    except WireUnavailable as error:
        return str(error)


def between(before: Snapshot, after: Snapshot | str) -> NDArray[np.int64] | str:
    """matrix(before, after), or why it would not be that of a program."""
    if isinstance(after, str):
        return after
    if not (before.settled and after.settled):  # then the difference is of two moments
        return f"the ranks' socket counters were still moving after {SETTLE_S:g} seconds"
    return matrix(before, after)


def matrix(before: Snapshot, after: Snapshot) -> NDArray[np.int64]:
    """traffic[T, T]: bytes that rank i sent to rank j between the two snapshots, over every connection they share.

    A connection that was opened in between counts from zero. One that was closed in between is gone,
    with its count. Raises ValueError when the snapshots are of different processes.
    """
    if before.pids != after.pids:
        raise ValueError(f"snapshots of different ranks: processes {before.pids} and {after.pids}")
    world_size = len(after.pids)
    traffic = np.zeros((world_size, world_size), dtype=np.int64)
    rank_of_pair = {pair: rank for rank in range(world_size) for pair in after.sent[rank]}
    for sender in range(world_size):
        for (local, far), num_bytes in after.sent[sender].items():
            receiver = rank_of_pair.get((far, local))
            if receiver is None:  # the other end is no rank: a store, a debugger, a stranger
                continue
            traffic[sender, receiver] += num_bytes - before.sent[sender].get((local, far), 0)
    return traffic


def available() -> tuple[bool, str]:
    """(True, what is read) or (False, why not): found out by sending 4 KiB to ourselves and looking for
    them."""
    num_bytes = 4096
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            with socket.create_connection(server.getsockname(), timeout=2.0) as client:
                peer, _ = server.accept()
                with peer:
                    before = snapshot([os.getpid()])
                    client.sendall(b"\0" * num_bytes)
                    after = snapshot([os.getpid()])
                    pair = (_endpoint(client.getsockname()), _endpoint(client.getpeername()))
    except WireUnavailable as error:
        return False, str(error)
    except OSError as error:
        return False, f"no TCP on loopback ({error.strerror or error})"
    if pair not in after.sent[0] or pair not in before.sent[0]:
        return False, "the operating system lists no sockets of ours (another network namespace, or a sandbox)"
    counted = after.sent[0][pair] - before.sent[0][pair]
    if counted != num_bytes:
        return False, f"the counters are wrong here: {num_bytes} bytes sent, {counted} counted"
    return True, "TCP bytes of the ranks' own sockets (gloo); NVLink and InfiniBand counters are not read"


def _read(pids: Sequence[int]) -> tuple[Snapshot, bool]:
    """One reading, and whether no byte was waiting to be sent or acknowledged."""
    if not sys.platform.startswith("linux"):
        raise WireUnavailable(f"socket counters are read on Linux only, and this is {sys.platform}")
    rank_of_inode: dict[int, int] = {}
    for rank, pid in enumerate(pids):
        for inode in _socket_inodes(pid):
            rank_of_inode.setdefault(inode, rank)
    sent: tuple[dict[Pair, int], ...] = tuple({} for _ in pids)
    quiet = True
    for message in _dump():
        rank = rank_of_inode.get(message["idiag_inode"])
        if rank is None or message["idiag_state"] == _LISTEN:
            continue
        info = dict(message["attrs"]).get("INET_DIAG_INFO") or {}
        num_bytes, in_flight = _bytes_sent(info)
        quiet = quiet and not in_flight
        pair = (
            _endpoint((message["idiag_src"], message["idiag_sport"])),
            _endpoint((message["idiag_dst"], message["idiag_dport"])),
        )
        sent[rank][pair] = num_bytes
    return Snapshot(tuple(pids), sent), quiet


def _bytes_sent(info: dict[str, Any]) -> tuple[int, bool]:
    """(payload bytes sent once each, whether any still wait) of one tcp_info. Raises WireUnavailable."""
    waiting = bool(info.get("tcpi_notsent_bytes"))
    if "tcpi_bytes_sent" in info:  # Linux 4.19 and later; does not wait for acknowledgements
        return info["tcpi_bytes_sent"] - info.get("tcpi_bytes_retrans", 0), waiting
    if "tcpi_bytes_acked" in info:  # lags by a delayed acknowledgement, up to 40 ms
        return info["tcpi_bytes_acked"], waiting or bool(info.get("tcpi_unacked"))
    raise WireUnavailable("this Linux kernel keeps no byte count per socket (TCP_INFO without tcpi_bytes_acked)")


def _socket_inodes(pid: int) -> list[int]:
    """Inodes of the sockets that process `pid` has open. Raises WireUnavailable if the process hides them."""
    folder = f"/proc/{pid}/fd"
    inodes: list[int] = []
    try:
        descriptors = os.listdir(folder)
    except PermissionError as error:
        raise WireUnavailable(f"no permission to read {folder}") from error
    except OSError as error:
        raise WireUnavailable(f"process {pid} is gone, or /proc is not mounted") from error
    for descriptor in descriptors:
        try:
            target = os.readlink(f"{folder}/{descriptor}")
        except OSError:  # closed while we looked
            continue
        if target.startswith("socket:["):
            inodes.append(int(target[8:-1]))
    return inodes


def _dump() -> list[Any]:
    """All TCP sockets of this network namespace, as sock_diag lists them. Raises WireUnavailable."""
    # pyroute2 runs an event loop of its own, which a thread that already runs one (a notebook's) refuses.
    with ThreadPoolExecutor(1, thread_name_prefix="shardlab-wire") as thread:
        return thread.submit(_dump_here).result()


def _dump_here() -> list[Any]:
    try:
        from pyroute2 import DiagSocket
        from pyroute2.netlink.exceptions import NetlinkError
    except ImportError as error:
        raise WireUnavailable("pyroute2 is not installed") from error
    messages: list[Any] = []
    try:
        with DiagSocket() as diag:
            for family in (socket.AF_INET, socket.AF_INET6):
                messages += diag.get_sock_stats(family=family, extensions=1 << (_INET_DIAG_INFO - 1))
    except (OSError, NetlinkError, NotImplementedError) as error:
        raise WireUnavailable(f"the operating system refuses socket diagnostics here ({error})") from error
    return messages


def _endpoint(address: tuple[Any, ...]) -> Endpoint:
    """(address, port) in one spelling: an IPv4 address inside IPv6 (::ffff:127.0.0.1) is that IPv4
    address."""
    parsed = ipaddress.ip_address(str(address[0]).partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return str(parsed), int(address[1])
