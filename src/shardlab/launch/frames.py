"""Messages over a stream socket: eight bytes of length, then the bytes. A message may carry descriptors."""

from __future__ import annotations

import socket
import struct

_LENGTH = struct.Struct("<Q")
MAX_FDS = 250  # SCM_MAX_FD of Linux is 253


def frame(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload


def send(sock: socket.socket, payload: bytes, fds: tuple[int, ...] = ()) -> None:
    """Send one message, blocking. The descriptors travel with its first byte."""
    data = frame(payload)
    sent = socket.send_fds(sock, [data], fds) if fds else 0
    sock.sendall(memoryview(data)[sent:])


def receive(sock: socket.socket) -> bytes | None:
    """The next message, blocking, or None when the other end is closed."""
    head = _exactly(sock, _LENGTH.size)
    return None if head is None else _exactly(sock, _LENGTH.unpack(head)[0])


def receive_with_fds(sock: socket.socket) -> tuple[bytes, list[int]] | None:
    """The next message and its descriptors, blocking, or None when the other end is closed."""
    head, fds, _, _ = socket.recv_fds(sock, _LENGTH.size, MAX_FDS)
    rest = _exactly(sock, _LENGTH.size - len(head)) if head else None
    if rest is None:
        return None
    payload = _exactly(sock, _LENGTH.unpack(head + rest)[0])
    return None if payload is None else (payload, fds)


def _exactly(sock: socket.socket, num_bytes: int) -> bytes | None:
    data = bytearray(num_bytes)
    view = memoryview(data)
    while view:
        received = sock.recv_into(view)
        if not received:
            return None
        view = view[received:]
    return bytes(data)


class Channel:
    """The parent's end of one rank's socket, never blocking: bytes to write, messages as they complete."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.closed = False
        self._out: list[memoryview] = []
        self._head = bytearray()
        self._body: bytearray | None = None
        self._filled = 0

    def fileno(self) -> int:
        return self.sock.fileno()

    def put(self, framed: bytes) -> None:
        self._out.append(memoryview(framed))

    @property
    def has_output(self) -> bool:
        return bool(self._out) and not self.closed

    def write(self) -> None:
        """Write what the socket takes now."""
        try:
            while self._out:
                sent = self.sock.send(self._out[0])
                self._out[0] = self._out[0][sent:]
                if not self._out[0]:
                    del self._out[0]
        except BlockingIOError:
            pass
        except OSError:  # the rank is gone; reading says so too
            self.closed = True

    def read(self) -> list[bytes]:
        """The messages that are complete now. Sets `closed` at the end of the stream."""
        messages = []
        try:
            while (message := self._read_one()) is not None:
                messages.append(message)
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True
        return messages

    def _read_one(self) -> bytes | None:
        while len(self._head) < _LENGTH.size:
            if not self._take(self.sock.recv(_LENGTH.size - len(self._head))):
                return None
        if self._body is None:
            self._body, self._filled = bytearray(_LENGTH.unpack(self._head)[0]), 0
        view = memoryview(self._body)
        while self._filled < len(view):
            received = self.sock.recv_into(view[self._filled :])
            if not received:
                self.closed = True
                return None
            self._filled += received
        message, self._body = bytes(self._body), None
        self._head.clear()
        return message

    def _take(self, data: bytes) -> bool:
        self.closed = self.closed or not data
        self._head += data
        return bool(data)

    def close(self) -> None:
        self.closed = True
        self.sock.close()
