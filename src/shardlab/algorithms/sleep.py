"""Sleep until a number in shared memory changes: Linux's futex, which costs nothing while nobody sleeps.

A rank that waits by yielding stays in the queue of its core, and every turn it gets is one that a rank with work to do
did not. One that sleeps is not in the queue. Man page futex(2); Drepper 2011, "Futexes Are Tricky".
"""

from __future__ import annotations

import ctypes
import platform
import sys
import time

# The call's number in each machine's table (Linux: include/uapi/asm-generic/unistd.h, arch/*/syscalls/*.tbl).
_SYS_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}
_WAIT, _WAKE = 0, 1  # not the private kind: the sleepers are other processes
_EVERYBODY = 2**31 - 1
_LONGEST_NS = 10_000_000
_NAP_S = 1e-4  # where there is no futex


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Word:
    """32 bits of shared memory to wait on."""

    def __init__(self, address: int) -> None:
        number = _SYS_FUTEX.get(platform.machine()) if sys.platform == "linux" else None
        self._syscall = None if number is None else ctypes.CDLL(None).syscall
        self._to_sleep = (ctypes.c_long(number or 0), ctypes.c_void_p(address), ctypes.c_int(_WAIT))
        self._to_wake = (*self._to_sleep[:2], ctypes.c_int(_WAKE), ctypes.c_int(_EVERYBODY))
        self._limit = ctypes.byref(_Timespec(0, _LONGEST_NS))

    def sleep(self, seen: int) -> None:
        """Return when somebody wakes the sleepers; at once where the word is not `seen` any more; after 10 ms at most.

        It may return for no reason, so whoever slept looks again.
        """
        if self._syscall is None:
            time.sleep(_NAP_S)
        else:
            self._syscall(*self._to_sleep, ctypes.c_uint32(seen), self._limit)

    def wake(self) -> None:
        """Wake all that sleep."""
        if self._syscall is not None:
            self._syscall(*self._to_wake)
