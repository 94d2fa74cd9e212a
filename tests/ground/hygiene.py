"""The rules for a notebook in labs/: safe to open, comparable, and short enough to read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_BYTES = 1_000_000
MAX_LINES = 14
_ABSOLUTE = re.compile(r"""(?<![\w.:/])(/(home|Users|root|tmp|work|mnt|opt|workspace|content)/|[A-Z]:\\\\?Users)""")
_REMOTE = re.compile(r"""<(script|link|iframe|img)[^>]*\b(src|href)\s*=\s*["']?(https?:)?//""", re.IGNORECASE)
_INSTALLS = re.compile(r"^\s*(!|%%(bash|sh|script)|%(pip|conda|system|sx))", re.MULTILINE)
_DISTRIBUTED = re.compile(r"torch\.distributed|from torch import .*distributed|\bdist\.")


def text_of(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


def tags(cell: dict[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


def code_problems(cell: dict[str, Any]) -> Iterator[str]:
    source = text_of(cell["source"])
    lines = source.strip().splitlines()
    if not lines:
        yield "empty cell"
    if len(lines) > MAX_LINES and "hide-cell" not in tags(cell) and "hide-input" not in tags(cell):
        yield f"{len(lines)} lines, at most {MAX_LINES}"
    if _INSTALLS.search(source):
        yield "runs a shell command or an installer"
    if "exercise" not in tags(cell):
        if re.search(r"^\s*class\s", source, re.MULTILINE):
            yield "defines a class: that belongs in src/"
        if _DISTRIBUTED.search(source):
            yield "uses torch.distributed: that belongs in a program"
    if cell.get("execution_count") is None:
        yield "no execution count: run it"
    if any(output["output_type"] == "error" for output in cell["outputs"]):
        yield "ends in an error"


def problems(notebook: dict[str, Any]) -> Iterator[str]:
    """Everything that is wrong with a notebook, in words, cell by cell (the first cell is 1)."""
    if len(json.dumps(notebook)) > MAX_BYTES:
        yield f"larger than {MAX_BYTES} bytes"
    if "version" in notebook["metadata"].get("language_info", {}):
        yield "language_info names a Python version"
    if notebook["metadata"].get("kernelspec", {}).get("name") != "python3":
        yield "the kernel is not python3"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    if code and not any(cell["outputs"] for cell in code):
        yield "no outputs: nbval has nothing to compare"
    counts = [cell.get("execution_count") for cell in code]
    if None not in counts and counts != list(range(1, len(code) + 1)):
        yield "execution counts are not 1, 2, 3, ...: run it from the top"
    for number, cell in enumerate(notebook["cells"], start=1):
        whole = text_of(cell["source"]) + json.dumps(cell.get("outputs", []))
        if _ABSOLUTE.search(whole):
            yield f"cell {number}: an absolute path"
        if _REMOTE.search(whole.replace('\\"', '"')):
            yield f"cell {number}: loads something from the network"
        if cell["cell_type"] == "code":
            yield from (f"cell {number}: {problem}" for problem in code_problems(cell))


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
