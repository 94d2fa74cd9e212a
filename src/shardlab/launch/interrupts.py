"""A stretch of code that Ctrl-C (or a notebook's Stop button) does not cut in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Hold back SIGINT until the end of the block. Keep the block short.

    A signal mask would not do: Python runs the handler in the main thread, whichever thread took the signal.
    Outside the main thread nothing is ever interrupted, and this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[FrameType | None] = []
    previous = signal.getsignal(signal.SIGINT)
    if not callable(previous):  # ignored, or a handler from C: leave it alone
        yield
        return
    signal.signal(signal.SIGINT, lambda _, frame: pending.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if pending:
            previous(signal.SIGINT, pending[0])
