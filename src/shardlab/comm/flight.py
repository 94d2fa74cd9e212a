"""One rank's own row of the flight table: what it writes, and how it compares itself with its peers before it sends."""

from __future__ import annotations

import os
import time
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple

from shardlab.comm.recorder import POINT_TO_POINT
from shardlab.comm.table import (
    DONE,
    LANE_HEAD,
    LANES,
    POSTED,
    RECORD,
    ROW_HEAD,
    SLOTS,
    STATE_AT,
    TEXT_BYTES,
    WAITING,
    CollectiveMismatch,
    Table,
)
from shardlab.measure.machine import num_cores

_NUM_YIELDS = 400


@dataclass
class _Lane:
    """This rank's own bookkeeping of one axis."""

    key: int
    offset: int
    number: int = 0
    peers: dict[int, int] = field(default_factory=dict)  # rank -> offset of its lane for the same key


class Entry(NamedTuple):
    """A collective that this rank has entered: what leave() and wait() need to know of it."""

    lane: _Lane
    number: int
    state_at: int  # where its state is written
    axis: str
    ranks: tuple[int, ...]
    text: bytes
    entered: float


class Flight(Table):
    """The table with this rank's row to write in."""

    def __init__(self, path: str, world_size: int, rank: int) -> None:
        """Map the table. Raises OSError when the disk has no room for it."""
        super().__init__(path, world_size)
        self.rank = rank
        self._run = 0
        self._lanes: dict[tuple[str, tuple[int, ...]], _Lane] = {}
        self._depth = 0  # of collectives that this rank waits in, one inside the other
        self._since = self._waited_s = self._late_s = 0.0
        self._num_spins = 0 if world_size > num_cores() else 200

    def begin(self, run: int) -> None:
        """Start run number `run` (1, 2, ...): every axis counts from 1 again."""
        self._run, self._lanes, self._depth = run, {}, 0
        self._waited_s = self._late_s = 0.0
        self._write_row_head()

    def enter(self, axis: str, ranks: tuple[int, ...], fingerprint: str, check: bool, *, posted: bool = False) -> Entry:
        """Write down that this rank enters its next collective on `axis`, and compare with the others where `check`.

        `ranks` are the global ranks of the axis; `fingerprint` is "op shape dtype" and must be the same on each.
        A blocking collective waits for the others to compare. One that is `posted` compares with those that have come,
        so whoever comes last of two that differ finds out before it sends; wait() compares with the rest.
        Raises CollectiveMismatch, on every rank concerned, before any of them has had a byte of the other.
        """
        # A send has one partner. It is not counted with the collectives, which all ranks must count alike.
        lane_axis = f"{axis} (p2p)" if fingerprint.startswith(POINT_TO_POINT) else axis
        lane = self._lanes.get((lane_axis, ranks)) or self._open_lane(lane_axis, ranks)
        lane.number += 1
        entry = self._write_record(lane, axis, ranks, fingerprint.encode(), POSTED if posted else WAITING)
        if not posted:
            self._start_waiting(entry.entered)
        if check:
            self._glance(entry) if posted else self._compare(entry)
        return entry

    def wait(self, entry: Entry, check: bool) -> None:
        """This rank now waits in what it had posted; with `check`, first for the others to have posted the same."""
        self._set_state(entry, WAITING)
        self._start_waiting(time.monotonic())
        if check:
            for peer in entry.ranks:
                if peer != self.rank:
                    self._same(entry, peer, self._await(entry, peer))

    def leave(self, entry: Entry) -> None:
        """This rank is out of a collective that it waited in."""
        self._set_state(entry, DONE)
        self._depth = max(0, self._depth - 1)
        if self._depth == 0:
            self._waited_s += time.monotonic() - self._since
            self._write_row_head()

    def _start_waiting(self, now: float) -> None:
        if self._depth == 0:
            self._since = now
        self._depth += 1

    # ------------------------------------------------------------------------------------ comparing with others

    def _compare(self, entry: Entry) -> None:
        others_latest = 0.0
        for peer in entry.ranks:
            if peer != self.rank:
                theirs = self._await(entry, peer)
                self._same(entry, peer, theirs)
                others_latest = max(others_latest, theirs[0] if theirs else 0.0)
        # Not before the first: until then ranks import and load, and which of them is last says nothing.
        if entry.entered > others_latest and entry.number > 1:
            self._late_s += entry.entered - others_latest

    def _glance(self, entry: Entry) -> None:
        for peer in entry.ranks:
            if peer != self.rank:
                self._same(entry, peer, self._peer_record(entry, peer))

    def _same(self, entry: Entry, peer: int, theirs: tuple[float, bytes] | None) -> None:
        if theirs is not None and theirs[1] != entry.text:
            raise CollectiveMismatch(self._mismatch(entry, peer, theirs[1]))

    def _await(self, entry: Entry, peer: int) -> tuple[float, bytes] | None:
        """(time entered, text) of the peer's record of the same number, however long that takes; None: long past."""
        tries, pause = 0, 50e-6
        while True:
            record = self._peer_record(entry, peer)
            if record is not None:
                return record
            if self._is_past(entry, peer):
                return None
            tries += 1
            if tries > self._num_spins + _NUM_YIELDS:
                time.sleep(pause)
                pause = min(2 * pause, 1e-3)
            elif tries > self._num_spins:
                os.sched_yield()

    def _peer_record(self, entry: Entry, peer: int) -> tuple[float, bytes] | None:
        """(time entered, text), or None where it is not there yet, or no longer."""
        lane, number = entry.lane, entry.number
        offset = lane.peers.get(peer)
        if offset is None:
            for candidate in self._lane_offsets(peer * self._row_bytes):
                record = self._record(candidate, number)
                if record is not None and record[:2] == (lane.key, self._run):
                    lane.peers[peer] = candidate
                    return record[2:]
            return None
        if self._words[offset // 8] < number:
            return None
        record = self._record(offset, number)
        return record[2:] if record is not None and record[:2] == (lane.key, self._run) else None

    def _is_past(self, entry: Entry, peer: int) -> bool:
        """Whether the peer has posted so much more on this axis that its record of this one is overwritten."""
        offset = entry.lane.peers.get(peer)
        for candidate in (offset,) if offset is not None else self._lane_offsets(peer * self._row_bytes):
            last = self._words[candidate // 8]
            if last >= entry.number + SLOTS:
                record = self._record(candidate, last)
                if record is not None and record[:2] == (entry.lane.key, self._run):
                    return True
        return False

    def _mismatch(self, entry: Entry, peer: int, theirs: bytes) -> str:
        texts = {self.rank: entry.text.decode(), peer: theirs.decode()}
        (low, one), (high, other) = sorted(texts.items())
        op, _, one_detail = one.partition(" ")
        other_op, _, other_detail = other.partition(" ")
        number, axis = entry.number, entry.axis
        if op == other_op:
            return f"{op} #{number} on {axis}: rank {low} has {one_detail}, rank {high} has {other_detail}"
        return f"collective #{number} on {axis}: rank {low} calls {one}, rank {high} calls {other}"

    # ------------------------------------------------------------------------------------------------- writing

    def _write_record(self, lane: _Lane, axis: str, ranks: tuple[int, ...], text: bytes, state: int) -> Entry:
        """The next record of the lane."""
        text, number, now = _fit(text), lane.number, time.monotonic()
        slot = self._slot(lane.offset, number)
        body = RECORD.pack(0, lane.key, self._run, number, now, len(text))[4:] + text
        self._table[slot + STATE_AT] = state
        self._table[slot : slot + 4 + len(body)] = zlib.crc32(body).to_bytes(4, "little") + body
        self._words[lane.offset // 8] = number
        return Entry(lane, number, slot + STATE_AT, axis, ranks, text, now)

    def _set_state(self, entry: Entry, state: int) -> None:
        if entry.number > entry.lane.number - SLOTS:  # else a later one has its slot
            self._table[entry.state_at] = state

    def _open_lane(self, axis: str, ranks: tuple[int, ...]) -> _Lane:
        if len(self._lanes) == LANES:
            raise ValueError(f"more than {LANES} axes in one run: {axis!r} on ranks {ranks}")
        mask = sum(1 << rank for rank in ranks).to_bytes(self._mask_bytes, "little")
        name = axis.encode()[:20]
        offset = self.rank * self._row_bytes + ROW_HEAD.size + len(self._lanes) * self._lane_bytes
        lane = self._lanes[axis, ranks] = _Lane(zlib.crc32(name.ljust(20, b"\0") + mask), offset)
        head = LANE_HEAD.pack(0, lane.key, name) + mask
        self._table[offset : offset + len(head)] = head
        self._write_row_head()
        return lane

    def _write_row_head(self) -> None:
        head = ROW_HEAD.pack(self._run, self._waited_s, self._late_s, len(self._lanes))
        at = self.rank * self._row_bytes
        self._table[at : at + len(head)] = head


def _fit(text: bytes) -> bytes:
    """Long descriptions keep their beginning and a checksum of the whole, so that they still compare."""
    if len(text) <= TEXT_BYTES:
        return text
    return text[: TEXT_BYTES - 12].decode(errors="ignore").encode() + b"..%08x" % zlib.crc32(text)
