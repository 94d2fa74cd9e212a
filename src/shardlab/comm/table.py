"""The flight table: who is in which collective, in memory that all ranks of a machine share.

One row a rank, in a file that every rank maps. A rank writes only its own row: before a collective it posts
the axis, the number of this collective on that axis, and a description of it (operation, shape, dtype). That
costs a few microseconds and not a byte on the wire, and it answers the questions that a hung run raises:

- ranks that are about to do different things find out before they do it (gloo would abort the process, or
  return wrong data, or wait for ever);
- the parent can say which rank did not come, and to which collective;
- the rank that everyone waits for is the slow one.

No lock. A record carries a checksum of itself, so that a reader never believes one that is half written,
whatever the order in which the machine's stores become visible: to it the record is "not there yet", and it
looks again.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from shardlab.comm.recorder import POINT_TO_POINT
from shardlab.measure.machine import num_cores

_ROW_HEAD = struct.Struct("<QddQ")  # run, waited_s, late_s, lanes in use
_LANE_HEAD = struct.Struct("<QQI20s")  # last number posted, last number done, key, axis; then a bit mask of ranks
_RECORD = struct.Struct("<IIQQdH")  # checksum, key, run, number, time entered, length of the text that follows
_TEXT_BYTES = 220
_RECORD_BYTES = 256
_SLOTS = 4  # a checked rank is at most one collective ahead of its peers: the record that they read is still there
_LANES = 16
_NUM_YIELDS = 400


class CollectiveMismatch(RuntimeError):
    """Two ranks of an axis were about to do different things as the same collective."""


@dataclass(frozen=True)
class Waiting:
    """What one rank last did on one axis."""

    axis: str
    ranks: tuple[int, ...]
    number: int
    done: bool
    text: str

    @property
    def op(self) -> str:
        return self.text.partition(" ")[0]

    def __str__(self) -> str:
        return f"{self.op} #{self.number} on {self.axis}"


@dataclass(frozen=True)
class Row:
    """One rank's row, as the parent reads it. `late_s`: how long the others waited for this rank alone."""

    rank: int
    run: int
    waited_s: float
    late_s: float
    lanes: tuple[Waiting, ...]

    @property
    def waits_in(self) -> Waiting | None:
        return next((lane for lane in self.lanes if not lane.done), None)

    def on(self, axis: str, ranks: tuple[int, ...]) -> Waiting | None:
        return next((lane for lane in self.lanes if (lane.axis, lane.ranks) == (axis, ranks)), None)


@dataclass
class _Lane:
    """This rank's own bookkeeping of one axis."""

    key: int
    offset: int
    number: int = 0
    peers: dict[int, int] = field(default_factory=dict)  # rank -> offset of its lane for the same key


class Flight:
    """One rank's handle on the table; `rank=None` only reads (the parent)."""

    def __init__(self, path: str, world_size: int, rank: int | None = None) -> None:
        """Map the table, making it if it is not there. Raises OSError when the disk has no room for it."""
        self.world_size = world_size
        self.rank = rank
        self._mask_bytes = -(-world_size // 64) * 8
        self._lane_bytes = -(-(_LANE_HEAD.size + self._mask_bytes) // 8) * 8 + _SLOTS * _RECORD_BYTES
        self._row_bytes = _ROW_HEAD.size + _LANES * self._lane_bytes
        size = world_size * self._row_bytes
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < size:
                # Reserved for good: a full disk is an OSError here, not a SIGBUS later.
                os.posix_fallocate(fd, 0, size)
            self._table = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._words = memoryview(self._table).cast("Q")
        self._run = 0
        self._lanes: dict[tuple[str, tuple[int, ...]], _Lane] = {}
        self._inside: _Lane | None = None
        self._entered = self._waited_s = self._late_s = 0.0
        self._num_spins = 0 if world_size > num_cores() else 200

    # --------------------------------------------------------------------------------- a rank, on its own row

    def begin(self, run: int) -> None:
        """Start run number `run` (1, 2, ...): every axis counts from 1 again."""
        assert self.rank is not None
        self._run, self._lanes, self._inside = run, {}, None
        self._waited_s = self._late_s = 0.0
        self._write_row_head()

    def enter(self, axis: str, ranks: tuple[int, ...], fingerprint: str, check: bool) -> None:
        """Post that this rank enters its next collective on `axis`; with `check`, wait for the others to compare.

        `ranks` are the global ranks of the axis; `fingerprint` is "op shape dtype" and must be the same on
        each. Raises CollectiveMismatch, on every rank concerned, before any of them has sent a byte.
        """
        # A send has one partner. It is not counted with the collectives, which all ranks must count alike.
        lane_axis = f"{axis} (p2p)" if fingerprint.startswith(POINT_TO_POINT) else axis
        lane = self._lanes.get((lane_axis, ranks)) or self._open_lane(lane_axis, ranks)
        lane.number += 1
        self._inside, self._entered = lane, time.monotonic()
        text = _fit(fingerprint.encode())
        slot = self._slot(lane.offset, lane.number)
        body = _RECORD.pack(0, lane.key, self._run, lane.number, self._entered, len(text))[4:] + text
        self._table[slot : slot + 4 + len(body)] = struct.pack("<I", zlib.crc32(body)) + body
        self._words[lane.offset // 8] = lane.number
        if check:
            self._compare(lane, axis, ranks, text)

    def leave(self) -> None:
        """This rank is out of the collective that it entered last."""
        if self._inside is None:
            return
        self._words[self._inside.offset // 8 + 1] = self._inside.number
        self._inside = None
        self._waited_s += time.monotonic() - self._entered
        self._write_row_head()

    def _compare(self, lane: _Lane, axis: str, ranks: tuple[int, ...], mine: bytes) -> None:
        latest, others_latest = self._entered, 0.0
        for peer in ranks:
            if peer != self.rank:
                entered, theirs = self._await(lane, peer)
                others_latest = max(others_latest, entered)
                if theirs != mine:
                    raise CollectiveMismatch(self._mismatch(lane.number, axis, peer, mine, theirs))
        # Not before the first: until then ranks import and load, and which of them is last says nothing.
        if latest > others_latest and lane.number > 1:
            self._late_s += latest - others_latest

    def _await(self, lane: _Lane, peer: int) -> tuple[float, bytes]:
        """(time entered, text) of the peer's record of the same number, however long that takes."""
        tries, pause = 0, 50e-6
        while True:
            record = self._peer_record(lane, peer)
            if record is not None:
                return record
            tries += 1
            if tries > self._num_spins + _NUM_YIELDS:
                time.sleep(pause)
                pause = min(2 * pause, 1e-3)
            elif tries > self._num_spins:
                os.sched_yield()

    def _peer_record(self, lane: _Lane, peer: int) -> tuple[float, bytes] | None:
        offset = lane.peers.get(peer)
        if offset is None:
            row = peer * self._row_bytes
            for candidate in self._lane_offsets(row):
                record = self._record(candidate, lane.number)
                if record is not None and record[:2] == (lane.key, self._run):
                    lane.peers[peer] = candidate
                    return record[2:]
            return None
        if self._words[offset // 8] < lane.number:
            return None
        record = self._record(offset, lane.number)
        return record[2:] if record is not None and record[:2] == (lane.key, self._run) else None

    def _mismatch(self, number: int, axis: str, peer: int, mine: bytes, theirs: bytes) -> str:
        texts = {self.rank or 0: mine.decode(), peer: theirs.decode()}
        (low, one), (high, other) = sorted(texts.items())
        op, _, one_detail = one.partition(" ")
        other_op, _, other_detail = other.partition(" ")
        if op == other_op:
            return f"{op} #{number} on {axis}: rank {low} has {one_detail}, rank {high} has {other_detail}"
        return f"collective #{number} on {axis}: rank {low} calls {one}, rank {high} calls {other}"

    def _open_lane(self, axis: str, ranks: tuple[int, ...]) -> _Lane:
        assert self.rank is not None
        if len(self._lanes) == _LANES:
            raise ValueError(f"more than {_LANES} axes in one run: {axis!r} on ranks {ranks}")
        mask = sum(1 << rank for rank in ranks).to_bytes(self._mask_bytes, "little")
        name = axis.encode()[:20]
        offset = self.rank * self._row_bytes + _ROW_HEAD.size + len(self._lanes) * self._lane_bytes
        lane = self._lanes[axis, ranks] = _Lane(zlib.crc32(name.ljust(20, b"\0") + mask), offset)
        head = _LANE_HEAD.pack(0, 0, lane.key, name) + mask
        self._table[offset : offset + len(head)] = head
        self._write_row_head()
        return lane

    def _write_row_head(self) -> None:
        head = _ROW_HEAD.pack(self._run, self._waited_s, self._late_s, len(self._lanes))
        at = (self.rank or 0) * self._row_bytes
        self._table[at : at + len(head)] = head

    # --------------------------------------------------------------------------------------------- any reader

    def rows(self) -> list[Row]:
        """Every rank's row. Lanes of an earlier run are left out."""
        return [self._row(rank) for rank in range(self.world_size)]

    def _row(self, rank: int) -> Row:
        at = rank * self._row_bytes
        run, waited_s, late_s, num_lanes = _ROW_HEAD.unpack_from(self._table, at)
        return Row(rank, run, waited_s, late_s, tuple(self._read_lanes(at, run, min(num_lanes, _LANES))))

    def _read_lanes(self, row: int, run: int, num_lanes: int) -> Iterator[Waiting]:
        for offset in self._lane_offsets(row, num_lanes):
            number, done, key, name = _LANE_HEAD.unpack_from(self._table, offset)
            record = self._record(offset, number) if number else None
            if record is None or record[:2] != (key, run):
                continue
            mask = self._table[offset + _LANE_HEAD.size :][: self._mask_bytes]
            bits = int.from_bytes(mask, "little")
            ranks = tuple(r for r in range(self.world_size) if bits >> r & 1)
            axis = name.rstrip(b"\0").decode(errors="replace")
            yield Waiting(axis, ranks, number, done >= number, record[3].decode(errors="replace"))

    def _lane_offsets(self, row: int, num_lanes: int = _LANES) -> range:
        first = row + _ROW_HEAD.size
        return range(first, first + num_lanes * self._lane_bytes, self._lane_bytes)

    def _slot(self, lane_offset: int, number: int) -> int:
        return lane_offset + self._lane_bytes - _SLOTS * _RECORD_BYTES + number % _SLOTS * _RECORD_BYTES

    def _record(self, lane_offset: int, number: int) -> tuple[int, int, float, bytes] | None:
        """(key, run, time entered, text) of record `number`, or None when it is not there or not whole."""
        slot = self._slot(lane_offset, number)
        raw = self._table[slot : slot + _RECORD_BYTES]
        checksum, key, run, posted, entered, length = _RECORD.unpack_from(raw)
        body = raw[4 : _RECORD.size + length]
        if posted != number or length > _TEXT_BYTES or zlib.crc32(body) != checksum:
            return None
        return key, run, entered, body[_RECORD.size - 4 :]

    def close(self) -> None:
        self._words.release()
        self._table.close()


def _fit(text: bytes) -> bytes:
    """Long descriptions keep their beginning and a checksum of the whole, so that they still compare."""
    if len(text) <= _TEXT_BYTES:
        return text
    return text[: _TEXT_BYTES - 12].decode(errors="ignore").encode() + b"..%08x" % zlib.crc32(text)
