"""Files of /sys, read so that nothing can go wrong: what is missing, hidden or odd is None."""

from __future__ import annotations

import re
from pathlib import Path


class Sysfs:
    """The tree below `root`: "/" for this machine, a folder with a made-up /sys in a test."""

    def __init__(self, root: str | Path = "/") -> None:
        self._root = Path(root)

    def text(self, path: str) -> str | None:
        """The file's text without the spaces around it. Some files refuse to be read: None, as if they were absent."""
        try:
            return (self._root / path).read_text(encoding="utf-8", errors="replace").strip() or None
        except (OSError, ValueError):
            return None

    def number(self, path: str) -> int | None:
        """The file as a whole number."""
        try:
            return int(self.text(path) or "")
        except ValueError:
            return None

    def names(self, folder: str, pattern: str = r".*") -> list[str]:
        """Names in a folder that match as a whole, cpu2 before cpu10. [] where there is no such folder."""
        try:
            found = [entry.name for entry in (self._root / folder).iterdir()]
        except OSError:
            return []
        return sorted((name for name in found if re.fullmatch(pattern, name)), key=_natural)

    def target(self, path: str) -> tuple[str, ...]:
        """The parts of the path that a link leads to, below the root. () where there is nothing."""
        try:
            return (self._root / path).resolve(strict=True).relative_to(self._root.resolve()).parts
        except (OSError, ValueError, RuntimeError):
            return ()


def cpu_list(text: str | None) -> tuple[int, ...]:
    """'0-3,8' -> (0, 1, 2, 3, 8). () for None or a text that is no such list."""
    cpus: list[int] = []
    for part in (text or "").split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match:
            cpus += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(cpus)


def size_bytes(text: str | None) -> int | None:
    """'32K' -> 32768, as sysfs and meminfo count: powers of two."""
    match = re.fullmatch(r"(\d+)\s*([KMG]?)B?", text or "", re.IGNORECASE)
    if not match:
        return None
    return int(match[1]) * 1024 ** " KMG".index(match[2].upper() or " ")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
