"""All TCP sockets of this machine with their counters, as Linux's sock_diag lists them: one netlink request a family.

Read here byte by byte: 64 ranks have 4,032 sockets, which a netlink library takes seconds to turn into objects, and
every count of bytes reads them four times. Sources: linux/netlink.h, linux/inet_diag.h, linux/tcp.h (struct tcp_info,
which only ever grows at its end), man page sock_diag(7).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

Endpoint = tuple[str, int]  # address, port

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_REQUEST_A_DUMP = 0x1 | 0x300  # NLM_F_REQUEST | NLM_F_DUMP
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_INFO = 2  # INET_DIAG_INFO, the one extension that we ask for: struct tcp_info
_ALL_STATES = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_QUERY = struct.Struct("=BBBxI48x")  # inet_diag_req_v2: family, protocol, extensions, states; any socket
_SOCKET = struct.Struct("=BBxx2s2s16s16s12x16xI")  # inet_diag_msg: family, state, ports, addresses, ..., inode
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_MAPPED = bytes(10) + b"\xff\xff"  # an IPv4 address inside IPv6
_UNACKED, _NOT_SENT, _BYTES_ACKED, _BYTES_SENT, _BYTES_RETRANS = 24, 144, 120, 200, 208  # offsets in struct tcp_info


class NoCount(Exception):
    """The Linux kernel's struct tcp_info ends before it counts bytes."""


class Tcp(NamedTuple):
    """One socket: its number under /proc/PID/fd, its state (net/tcp_states.h), its two ends, its counters."""

    inode: int
    state: int
    local: Endpoint
    far: Endpoint
    info: bytes  # struct tcp_info; empty for a socket that is closing


def sockets() -> list[Tcp]:
    """Every TCP socket of this network namespace. Raises OSError where the Linux kernel refuses."""
    return [one for family in (socket.AF_INET, socket.AF_INET6) for one in _of_family(family)]


def bytes_sent(info: bytes) -> tuple[int, bool]:
    """(payload bytes sent once each, whether any still wait) of one struct tcp_info. Raises NoCount."""
    waiting = len(info) >= _NOT_SENT + 4 and struct.unpack_from("=I", info, _NOT_SENT)[0] > 0
    if len(info) >= _BYTES_RETRANS + 8:  # Linux 4.19 and later; does not wait for acknowledgements
        sent, again = struct.unpack_from("=QQ", info, _BYTES_SENT)
        return sent - again, waiting
    if len(info) >= _BYTES_ACKED + 8:  # lags by a delayed acknowledgement, up to 40 ms
        (acked,) = struct.unpack_from("=Q", info, _BYTES_ACKED)
        return acked, waiting or struct.unpack_from("=I", info, _UNACKED)[0] > 0
    raise NoCount


def _of_family(family: int) -> Iterator[Tcp]:
    query = _QUERY.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), _ALL_STATES)
    header = _HEADER.pack(_HEADER.size + len(query), _SOCK_DIAG_BY_FAMILY, _REQUEST_A_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as diag:
        diag.send(header + query)
        while True:
            data = diag.recv(1 << 18)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                body = data[at + _HEADER.size : at + length]
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    raise OSError(number, os.strerror(number))
                if kind == _SOCK_DIAG_BY_FAMILY:
                    yield _decoded(body)
                at += -(-length // 4) * 4


def _decoded(body: bytes) -> Tcp:
    family, state, local_port, far_port, local, far, inode = _SOCKET.unpack_from(body)
    at, info = _SOCKET.size, b""
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        if kind == _INFO:
            info = body[at + _ATTRIBUTE.size : at + length]
        at += -(-length // 4) * 4
    return Tcp(inode, state, _end(family, local, local_port), _end(family, far, far_port), info)


def _end(family: int, address: bytes, port: bytes) -> Endpoint:
    """(address, port) in one spelling: an IPv4 address inside IPv6 is that IPv4 address."""
    if family == socket.AF_INET:
        text = socket.inet_ntop(socket.AF_INET, address[:4])
    elif address.startswith(_MAPPED):
        text = socket.inet_ntop(socket.AF_INET, address[12:])
    else:
        text = socket.inet_ntop(socket.AF_INET6, address)
    return text, int.from_bytes(port, "big")
