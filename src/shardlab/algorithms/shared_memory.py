"""A piece of memory that all ranks of one host map, and flags in it to wait for each other. No copy by the kernel.

The memory has no name (memfd.py), so whatever dies, and however, nothing is left behind.

Layout: a token; the number of the last barrier that everybody reached; what memfd.share says when the memory grows;
then a flag and an answer a rank; then two buffers, each with a slot a rank. A rank writes only its own ones.
"""

from __future__ import annotations

import mmap
import os
import threading

import torch

from shardlab.algorithms import memfd
from shardlab.algorithms.sleep import Word
from shardlab.comm.mesh import Axis
from shardlab.measure.machine import num_cores

_LINE = 128  # bytes; a cache line is 64 on most machines, and some fetch them in pairs
_WORD = 8
_PAGE = 4096
# Where every rank has a core: spin, then yield for about a millisecond, since to be woken takes longer than most waits.
# Where ranks outnumber cores, most are only a turn of the queue away; for who is not, it sleeps.
_SPINS_AND_YIELDS = {"roomy": (200, 1000), "crowded": (0, 5)}
_MOST_LAYOUTS = 256

Slots = tuple[torch.Tensor, torch.Tensor]  # [T, length] of all ranks, [length] of this one


class SharedMemory:
    """The segment of one axis. Making it is collective, and so is every call that uses it.

    `moved_bytes` counts what this rank wrote into its slot, and what it read from its peers' slots, since it was made
    (theory.collectives.shared_memory_bytes). Making it broadcasts 24 bytes and gathers 8 a rank, which are recorded;
    growing it sends nothing.
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
        self.moved_bytes = 0
        self.capacity_bytes = 0
        self._fence = threading.Lock()
        self._fence.acquire()
        crowded = axis.size > num_cores()
        self._num_spins, self._num_yields = _SPINS_AND_YIELDS["crowded" if crowded else "roomy"]
        self._flag_bytes = (
            _WORD if crowded else _LINE
        )  # spinning ranks must not share a line; many are read faster dense
        self._memory: mmap.mmap | None = None
        self._grow(capacity_bytes)

    def __enter__(self) -> SharedMemory:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ one call

    def begin(self, dtype: torch.dtype, length: int) -> Slots:
        """Start a call: its buffer, as (slots[T, length] of this dtype, one row a rank; this rank's row).

        Every rank begins with the same arguments. There are two buffers, in turns. Whoever begins call k+2 has seen
        all others in call k+1, so they are done with reading call k's buffer: one barrier a call is enough.
        """
        self._turn ^= 1
        layout = self._layouts.get((dtype, length))
        if layout is None:
            layout = self._lay_out(dtype, length)
        return layout[self._turn]

    def barrier(self) -> None:
        """Wait until every rank of the axis is here; what it wrote to its slot before can be read after.

        A rank announces itself by the number of this barrier, in its own flag. Whoever sees all flags there wakes
        those who sleep. x86 makes stores visible in order, so the flag is never seen before the data. ARM and POWER do
        not. Giving back a lock keeps what came before it before it, taking it keeps what comes after it after it, and
        the two themselves stay in order: together they are the fence that Python has no name for. The one after the
        flag has x86 show it before the others' are read, or the last two to come could each miss the other.
        """
        self._number = number = self._number + 1
        self._order()
        self._own_flag[0] = number
        self._order()
        if min(self._flags) >= number:
            self._complete[0] = number
            self._word.wake()
        else:
            self._wait(number)
        self._order()

    def _order(self) -> None:
        self._fence.release()
        self._fence.acquire()

    def _wait(self, number: int) -> None:
        """Spin where every rank has a core; let the others run a few times; then sleep, and leave them the cores."""
        flags = self._flags
        for _ in range(self._num_spins):
            if min(flags) >= number:
                return
        for _ in range(self._num_yields):
            os.sched_yield()
            if min(flags) >= number:
                return
        while (seen := self._complete[0]) < number and min(flags) < number:
            self._word.sleep(seen)

    # ---------------------------------------------------------------------------------------------- the memory

    @torch.inference_mode(False)  # or what is made while a model decodes could not be written outside of that
    def _lay_out(self, dtype: torch.dtype, length: int) -> tuple[Slots, Slots]:
        """Views of both buffers, kept: making them anew would take longer than a small collective."""
        if self._memory is None:
            raise ValueError(f"the shared memory of the {self.axis.name} axis is closed")
        num_bytes = length * dtype.itemsize
        if num_bytes > self.capacity_bytes:
            self._grow(max(num_bytes, 2 * self.capacity_bytes))
        if len(self._layouts) >= _MOST_LAYOUTS:
            self._layouts.clear()
        first, second = (buffer[:, :num_bytes].view(dtype) for buffer in self._buffers)
        layout = self._layouts[dtype, length] = ((first, first[self.axis.rank]), (second, second[self.axis.rank]))
        return layout

    @torch.inference_mode(False)
    def _grow(self, capacity_bytes: int) -> None:
        """A new segment for everybody. The old one, over which they meet, goes when the last rank has dropped it."""
        axis = self.axis
        flags_at = 3 * _LINE
        answers_at = flags_at + axis.size * self._flag_bytes
        head = -(-(answers_at + axis.size * _WORD) // _PAGE) * _PAGE
        slot_bytes = -(-capacity_bytes // _PAGE) * _PAGE
        size = head + 2 * axis.size * slot_bytes
        if axis.size == 1:
            memory = mmap.mmap(-1, size)
        else:
            memory = memfd.share(axis, size, self if self._memory is not None else None)
        self.close()
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        slots = whole[head:].view(2, axis.size, slot_bytes)
        self._memory, self.capacity_bytes = memory, slot_bytes
        self._buffers = slots.unbind(0)
        self._layouts: dict[tuple[torch.dtype, int], tuple[Slots, Slots]] = {}
        words = memoryview(memory)
        self._complete = words[_LINE : _LINE + 4].cast("I")
        self._word = Word(whole.data_ptr() + _LINE)
        self._hello = words[2 * _LINE : 2 * _LINE + 3 * _WORD].cast("Q")
        self._flags = words[flags_at:answers_at].cast("Q")[:: self._flag_bytes // _WORD]
        self._own_flag = self._flags[axis.rank : axis.rank + 1]
        self._answers = words[answers_at : answers_at + axis.size * _WORD].cast("Q")
        self._number = self._turn = 0

    def tell(self, hello: list[int]) -> list[int]:
        """memfd.Meeting: rank 0's three numbers, on every rank."""
        if self.axis.rank == 0:
            for place, number in enumerate(hello):
                self._hello[place] = number
        self.barrier()
        return list(self._hello)

    def gather(self, found: int) -> list[int]:
        """memfd.Meeting: every rank's number, on every rank."""
        self._answers[self.axis.rank] = found
        self.barrier()
        return list(self._answers)

    def close(self) -> None:
        """Unmap it. Not collective: the others keep theirs. Closing twice is fine."""
        if self._memory is None:
            return
        self._buffers, self._layouts = (), {}
        for view in (self._complete, self._hello, self._own_flag, self._flags, self._answers):
            view.release()
        memory, self._memory = self._memory, None
        try:
            memory.close()
        except BufferError:  # a view of it is still alive in a traceback, say: it goes with that
            pass
