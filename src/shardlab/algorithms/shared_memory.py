"""A piece of memory that all ranks of one host map, and flags in it to wait for each other. No copy by the kernel.

The memory has no name (memfd.py), so whatever dies, and however, nothing is left behind.

Layout: a token, then one flag a rank, each on cache lines of its own; then two buffers, each with a slot a rank. A
rank writes only its own flag and its own slot.
"""

from __future__ import annotations

import mmap
import os
import threading
import time

import torch

from shardlab.algorithms import memfd
from shardlab.comm.mesh import Axis
from shardlab.comm.table import num_cores

_LINE = 128  # bytes; a cache line is 64 on most machines, and some fetch them in pairs
_PAGE = 4096
_NUM_SPINS = 200
_YIELD_S = 0.02  # after so long, something slow is going on elsewhere: sleep, and leave it the core
_LONGEST_SLEEP_S = 1e-3
_MOST_LAYOUTS = 256

Slots = tuple[tuple[torch.Tensor, ...], ...]  # [rank][part]


class SharedMemory:
    """The segment of one axis. Making it is collective, and so is every call that uses it.

    `moved_bytes` counts what this rank wrote into its slot, and what it read from its peers' slots, since it was made
    (theory.collectives.shared_memory_bytes). Making or growing it broadcasts 24 bytes and gathers 8 a rank, which are
    recorded.
    """

    def __init__(self, axis: Axis, capacity_bytes: int = 1 << 20) -> None:
        """`capacity_bytes`: the largest tensor of a rank that fits; it grows when a larger one comes.

        The machine holds 2 * axis.size * capacity_bytes. Raises RuntimeError, on every rank, where the platform has
        no memfd or the ranks are not on one host; OSError on rank 0 where there is no memory.
        """
        if capacity_bytes < 0:
            raise ValueError(f"capacity_bytes={capacity_bytes}: 0 or more bytes")
        fine, why = memfd.available()
        if not fine:
            raise RuntimeError(why)
        self.axis = axis
        self.peers = tuple(peer for peer in range(axis.size) if peer != axis.rank)
        self.moved_bytes = 0
        self.capacity_bytes = 0
        self._fence = threading.Lock()
        self._fence.acquire()
        self._num_spins = 0 if axis.size > num_cores() else _NUM_SPINS
        self._memory: mmap.mmap | None = None
        self._grow(capacity_bytes)

    def __enter__(self) -> SharedMemory:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ one call

    def begin(self, dtype: torch.dtype, lengths: tuple[int, ...]) -> Slots:
        """Start a call: its buffer, as slots[rank][part], for tensors cut into parts of these lengths.

        Every rank begins with the same arguments. There are two buffers, in turns. Whoever begins call k+2 has seen
        all others in call k+1, so they are done with reading call k's buffer: one barrier a call is enough.
        """
        self._turn ^= 1
        layout = self._layouts.get((dtype, lengths))
        if layout is None:
            layout = self._lay_out(dtype, lengths)
        return layout[self._turn]

    def barrier(self) -> None:
        """Wait until every rank of the axis is here; what it wrote to its slot before can be read after.

        A rank announces itself by the number of this barrier, in its own flag. x86 makes stores visible in order, so
        the flag is never seen before the data. ARM and POWER do not. Giving back a lock keeps what came before it
        before it, taking it keeps what comes after it after it, and the two themselves stay in order: together they
        are the fence that Python has no name for. It costs a tenth of a microsecond, so x86 takes it too.
        """
        self._number = number = self._number + 1
        self._fence.release()
        self._fence.acquire()
        self._flags[self._own_flag] = number
        for flag in self._peer_flags:
            if self._flags[flag] < number:
                self._wait(flag, number)
        self._fence.release()
        self._fence.acquire()

    def _wait(self, flag: int, number: int) -> None:
        """Spin where every rank has a core; then let the others run; and sleep when it takes long."""
        flags = self._flags
        for _ in range(self._num_spins):
            if flags[flag] >= number:
                return
        yield_until = time.monotonic() + _YIELD_S
        while flags[flag] < number:
            os.sched_yield()
            if time.monotonic() > yield_until:
                break
        pause = 2e-5
        while flags[flag] < number:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_SLEEP_S)

    # ---------------------------------------------------------------------------------------------- the memory

    def _lay_out(self, dtype: torch.dtype, lengths: tuple[int, ...]) -> tuple[Slots, Slots]:
        """Views of both buffers, kept: making them anew would take longer than a small collective."""
        if self._memory is None:
            raise ValueError(f"the shared memory of the {self.axis.name} axis is closed")
        num_bytes = sum(lengths) * dtype.itemsize
        if num_bytes > self.capacity_bytes:
            self._grow(max(num_bytes, 2 * self.capacity_bytes))
        if len(self._layouts) >= _MOST_LAYOUTS:
            self._layouts.clear()
        first, second = (
            tuple(tuple(slot[:num_bytes].view(dtype).split_with_sizes(list(lengths))) for slot in buffer)
            for buffer in self._buffers
        )
        layout = self._layouts[dtype, lengths] = (first, second)
        return layout

    def _grow(self, capacity_bytes: int) -> None:
        """A new segment for everybody. The old one goes when the last rank has dropped it."""
        axis = self.axis
        self.close()
        slot_bytes = -(-capacity_bytes // _PAGE) * _PAGE
        head = -(-_LINE * (1 + axis.size) // _PAGE) * _PAGE
        size = head + 2 * axis.size * slot_bytes
        memory = memfd.share(axis, size) if axis.size > 1 else mmap.mmap(-1, size)
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        slots = whole[head:].view(2, axis.size, slot_bytes)
        self._memory, self.capacity_bytes = memory, slot_bytes
        self._buffers = [slots[turn].unbind(0) for turn in (0, 1)]
        self._layouts: dict[tuple[torch.dtype, tuple[int, ...]], tuple[Slots, Slots]] = {}
        self._flags = memoryview(memory).cast("Q")
        at = [_LINE * (1 + rank) // 8 for rank in range(axis.size)]
        self._own_flag = at.pop(axis.rank)
        self._peer_flags = tuple(at)
        self._number = self._turn = 0

    def close(self) -> None:
        """Unmap it. Not collective: the others keep theirs. Closing twice is fine."""
        if self._memory is None:
            return
        self._buffers, self._layouts = [], {}
        self._flags.release()
        memory, self._memory = self._memory, None
        try:
            memory.close()
        except BufferError:  # a view of it is still alive in a traceback, say: it goes with that
            pass
