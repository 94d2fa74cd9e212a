"""What a test needs beyond its process, said in one place: what may run side by side, what `make quick` leaves out.

    ranks    starts ranks. Two such tests at once would share the cores, and what they time or count would be wrong
    kernels  interprets or compiles Triton kernels: correct, and slow
    slow     takes more than about ten seconds by itself (a build of the book, a real model)

Tests that start no ranks run side by side; the others run one after the other. The marks `ranks` and `kernels` are set
here, by a rule, so that nobody has to remember them. A test whose child process starts ranks (the command line, a
torchrun) sets @pytest.mark.ranks itself. One that starts ranks in this process without the mark is stopped.
"""

from __future__ import annotations

import inspect
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
# Folders in which every test has the mark: they are not even imported where the mark is not wanted.
WHOLE = {"launch": "ranks", "lattice": "ranks", "kernels": "kernels"}
# What the source of a test, or of a fixture, says where it starts ranks, and where it interprets a kernel.
SAYS = {"ranks": ("Ranks(", "torch.distributed.run"), "kernels": ("ops.interpreted(",)}

_allowed = True


@cache
def _said_by(function: Any) -> frozenset[str]:
    """The marks that the source of a test or a fixture asks for."""
    try:
        source = inspect.getsource(inspect.unwrap(function))
    except (OSError, TypeError):
        return frozenset()
    return frozenset(mark for mark, words in SAYS.items() if any(word in source for word in words))


def marks_of(item: pytest.Item) -> set[str]:
    """The marks that the rule gives to a test: by its folder, its fixtures, and what they and itself are made of."""
    found = {mark for folder, mark in WHOLE.items() if (HERE / folder) in item.path.parents}
    fixtures = getattr(item, "_fixtureinfo", None)
    defined = [one[-1].func for one in fixtures.name2fixturedefs.values()] if fixtures else []
    found = found.union(*map(_said_by, (getattr(item, "function", None), *defined)))
    ways = getattr(getattr(item, "callspec", None), "id", "").split("-")
    if "kernels" in ways:  # a test of several ways says by its case which one it goes
        found.add("kernels")
    elif "torch" in ways:
        found.discard("kernels")
    return found


def unwanted(path: Path, expression: str) -> bool:
    """Whether no test below `path` is wanted under a `-m` expression, which says "not ranks" and the like."""
    return any(path == HERE / folder and f"not {mark}" in expression for folder, mark in WHOLE.items())


def allow_ranks(item: pytest.Item | None) -> None:
    """From now on this process may start ranks if `item` has the mark; None: it may."""
    global _allowed
    _allowed = item is None or item.get_closest_marker("ranks") is not None


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen" and not _allowed and "shardlab.launch.server" in str(arguments[1]):
        raise RuntimeError(f"this test starts ranks, and has no mark that says so: see {Path(__file__).name}")


def watch() -> None:
    """Stop whoever starts ranks without the mark. For the life of this process: an audit hook cannot be taken off."""
    sys.addaudithook(_refuse)
