"""What a check answers: right or not yet, why, and one hint."""

from __future__ import annotations

import html
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """The answer to one attempt. `ok` is for tests; a notebook shows the words."""

    ok: bool
    message: str
    hint: str = ""

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        mark = "right" if self.ok else "not yet"
        return f"{mark}: {self.message}" + (f"\nhint: {self.hint}" if self.hint else "")

    def _repr_html_(self) -> str:
        # Colours that read on a light and on a dark page; the words carry the meaning, not the colour.
        edge = "#2e9e6b" if self.ok else "#c98a1b"
        mark = "✓ right" if self.ok else "… not yet"
        hint = f"<div style='margin-top:.3em'><em>Hint.</em> {html.escape(self.hint)}</div>" if self.hint else ""
        return (
            f"<div style='border-left:4px solid {edge};padding:.4em .8em;margin:.4em 0'>"
            f"<strong>{mark}</strong>: {html.escape(self.message)}{hint}</div>"
        )
