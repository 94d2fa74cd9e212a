"""The flight table: who is in which collective, in memory that all ranks of a machine share.

One row a rank, in a file that every rank maps. A rank writes only its own row (comm.flight): when it posts a
collective it writes down the axis, the number of this collective on that axis, and a description of it (operation,
shape, dtype). That costs a few microseconds and not a byte on the wire, and it answers the questions that a hung run
raises:

- ranks that are about to do different things find out before they do it (gloo would abort the process, or
  return wrong data, or wait for ever);
- the parent can say which rank did not come, and to which collective, and what each rank has posted and not
  waited for;
- the rank that everyone waits for is the slow one.

No lock. A record carries a checksum of itself, so that a reader never believes one that is half written,
whatever the order in which the machine's stores become visible: to it the record is "not there yet", and it
looks again. Here are the layout and what anybody may read.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from dataclasses import dataclass

ROW_HEAD = struct.Struct("<QddQ")  # run, waited_s, late_s, lanes in use
LANE_HEAD = struct.Struct("<QI20s")  # last number posted, key, axis; then a bit mask of ranks
RECORD = struct.Struct("<IIQQdH")  # checksum, key, run, number, time entered, length of the text that follows
TEXT_BYTES = 220
RECORD_BYTES = 256
STATE_AT = RECORD_BYTES - 1  # the record's last byte, outside its checksum: one of the states below
DONE, POSTED, WAITING = 0, 1, 2
# Of each lane the last so many are kept: those that are open, and those that a peer may still want to compare.
SLOTS = 16
LANES = 16


class CollectiveMismatch(RuntimeError):
    """Two ranks of an axis were about to do different things as the same collective."""


@dataclass(frozen=True)
class Waiting:
    """One collective of one rank: the last on its axis, or one that is still open."""

    axis: str
    ranks: tuple[int, ...]
    number: int
    text: str
    state: int = DONE
    entered: float = 0.0  # time.monotonic()

    @property
    def done(self) -> bool:
        return self.state == DONE

    @property
    def op(self) -> str:
        return self.text.partition(" ")[0]

    def __str__(self) -> str:
        return f"{self.op} #{self.number} on {self.axis}"


@dataclass(frozen=True)
class Row:
    """One rank's row, as the parent reads it. `late_s`: how long the others waited for this rank alone.

    lanes: the last collective on each axis. open: those that are not done, the first entered first.
    """

    rank: int
    run: int
    waited_s: float
    late_s: float
    lanes: tuple[Waiting, ...]
    open: tuple[Waiting, ...] = ()

    @property
    def waits_in(self) -> Waiting | None:
        """What the rank waits in now: the innermost, where one collective is made of others."""
        return next((one for one in reversed(self.open) if one.state == WAITING), None)

    @property
    def posted(self) -> tuple[Waiting, ...]:
        """What it has posted and not waited for yet."""
        return tuple(one for one in self.open if one.state == POSTED)

    def on(self, axis: str, ranks: tuple[int, ...]) -> Waiting | None:
        return next((lane for lane in self.lanes if (lane.axis, lane.ranks) == (axis, ranks)), None)


class Table:
    """The table as anybody may read it. The parent makes it; comm.flight.Flight is one rank's, which writes too."""

    def __init__(self, path: str, world_size: int) -> None:
        """Map the table, making it if it is not there. Raises OSError when the disk has no room for it."""
        self.world_size = world_size
        self._mask_bytes = -(-world_size // 64) * 8
        self._lane_bytes = -(-(LANE_HEAD.size + self._mask_bytes) // 8) * 8 + SLOTS * RECORD_BYTES
        self._row_bytes = ROW_HEAD.size + LANES * self._lane_bytes
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

    def close(self) -> None:
        self._words.release()
        self._table.close()

    def rows(self) -> list[Row]:
        """Every rank's row. Lanes of an earlier run are left out."""
        return [self._row(rank) for rank in range(self.world_size)]

    def _row(self, rank: int) -> Row:
        at = rank * self._row_bytes
        run, waited_s, late_s, num_lanes = ROW_HEAD.unpack_from(self._table, at)
        lanes = [self._read_lane(offset, run) for offset in self._lane_offsets(at, min(num_lanes, LANES))]
        last = tuple(lane[-1] for lane in lanes if lane)
        still_open = sorted((one for lane in lanes for one in lane if not one.done), key=lambda one: one.entered)
        return Row(rank, run, waited_s, late_s, last, tuple(still_open))

    def _read_lane(self, offset: int, run: int) -> list[Waiting]:
        """The open collectives of a lane, in order, and the last one whether it is open or not."""
        last, key, name = LANE_HEAD.unpack_from(self._table, offset)
        mask = self._table[offset + LANE_HEAD.size :][: self._mask_bytes]
        bits = int.from_bytes(mask, "little")
        ranks = tuple(r for r in range(self.world_size) if bits >> r & 1)
        axis = name.rstrip(b"\0").decode(errors="replace")
        found = []
        for number in range(max(1, last - SLOTS + 1), last + 1):
            state = self._table[self._slot(offset, number) + STATE_AT]
            if state == DONE and number < last:
                continue
            record = self._record(offset, number)
            if record is not None and record[:2] == (key, run):
                text = record[3].decode(errors="replace")
                found.append(Waiting(axis, ranks, number, text, state, record[2]))
        return found

    def _lane_offsets(self, row: int, num_lanes: int = LANES) -> range:
        first = row + ROW_HEAD.size
        return range(first, first + num_lanes * self._lane_bytes, self._lane_bytes)

    def _slot(self, lane_offset: int, number: int) -> int:
        return lane_offset + self._lane_bytes - SLOTS * RECORD_BYTES + number % SLOTS * RECORD_BYTES

    def _record(self, lane_offset: int, number: int) -> tuple[int, int, float, bytes] | None:
        """(key, run, time entered, text) of record `number`, or None when it is not there or not whole."""
        slot = self._slot(lane_offset, number)
        raw = self._table[slot : slot + RECORD_BYTES]
        checksum, key, run, posted, entered, length = RECORD.unpack_from(raw)
        body = raw[4 : RECORD.size + length]
        if posted != number or length > TEXT_BYTES or zlib.crc32(body) != checksum:
            return None
        return key, run, entered, body[RECORD.size - 4 :]
