"""A keyword that both a program and Ranks.run have: whose it is must not be guessed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any


def refuse_ambiguous(program: Callable[..., Any], args: Sequence[Any], names: Sequence[str]) -> None:
    """Raises TypeError for a keyword of Ranks.run in `names` that is a parameter of `program` too, and still free.

    A parameter that `args` (after the mesh) or functools.partial has filled is not: then the keyword is Ranks.run's.
    """
    if not names:
        return
    try:
        parameters = inspect.signature(program).parameters
    except (TypeError, ValueError):  # written in C: nothing is known of it
        return
    in_order = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [one.name for one in parameters.values() if one.kind in in_order]
    filled = {*positional[: 1 + len(args)], *getattr(program, "keywords", ())}
    for name in names:
        if name in parameters and name not in filled:
            called = getattr(program, "__name__", None) or getattr(getattr(program, "func", None), "__name__", "it")
            raise TypeError(
                f"`{name}` is a keyword of Ranks.run and a parameter of {called}: give the program its own by "
                f"functools.partial({called}, {name}=...), and then Ranks.run its own as before"
            )
