"""Show the code that runs, where it is talked about: the library's own source, never a copy in a notebook."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any


class Source:
    """What `source` returns: Markdown for Jupyter and the book, plain text for a terminal."""

    def __init__(self, functions: tuple[Callable[..., Any], ...]) -> None:
        self.text = "\n\n".join(f"# {_where(one)}\n{_code(one)}" for one in functions)

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.text}\n```"

    def __repr__(self) -> str:
        return self.text


def source(*functions: Callable[..., Any]) -> Source:
    """The source of these functions, each under the name of its module."""
    if not functions:
        raise ValueError("source needs at least one function")
    return Source(functions)


def _where(function: Callable[..., Any]) -> str:
    return f"{function.__module__.replace('.', '/')}.py: {function.__qualname__}"


def _code(function: Callable[..., Any]) -> str:
    return textwrap.dedent(inspect.getsource(function)).rstrip()
