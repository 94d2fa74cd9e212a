"""A kernel that waits for ever takes the main thread with it: a second thread ends the process then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path


class Watch:
    """Calls `give_up` where a case takes longer than `limit_s` (None: never).

    The label of the case under way is kept in the file `note`: whoever started this process finds it there if the
    process died within the case, and leaves that case out next time.
    """

    def __init__(
        self, limit_s: float | None = None, give_up: Callable[[], object] = lambda: None, note: Path | None = None
    ) -> None:
        self._limit_s, self._give_up, self._note = limit_s, give_up, note
        self._timer: threading.Timer | None = None

    def begin(self, label: str) -> None:
        self.end()
        if self._note:
            self._note.write_text(label, encoding="utf-8")
        if self._limit_s is not None:
            self._timer = threading.Timer(self._limit_s, self._give_up)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._note:
            self._note.unlink(missing_ok=True)
