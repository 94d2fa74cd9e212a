"""Errors in plain words: exit code 2 for what the user asked, 1 for what the machine refused, and no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn, ParamSpec, TypeVar

import typer

P = ParamSpec("P")
R = TypeVar("R")


class Mistake(ValueError):
    """What the user asked cannot be done. The message names the key, its value and what is allowed."""


def positive(text: str) -> int:
    """Parses an option that counts something. The command line adds the option's name to the message."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise typer.BadParameter(f"{text!r} is not an integer of 1 or more")
    return value


def degree(about: str) -> Any:
    """An option that is a degree of the plan."""
    return typer.Option(parser=positive, metavar="INTEGER", help=about)


def fail(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


def plain_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a command's errors into one line and an exit code.

    ValueError is the user's mistake (2). RuntimeError and OSError are the machine's or a rank's (1). Anything
    else is a bug of ours, and keeps its traceback.
    """

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except typer.Exit:
            raise
        except ValueError as error:
            fail(str(error), 2)
        except BrokenPipeError:  # the reader of a pipe has left: nothing is wrong
            sys.stderr.close()
            raise typer.Exit(1) from None
        except (RuntimeError, OSError) as error:
            fail(str(error), 1)
        except KeyboardInterrupt:
            fail("interrupted", 130)

    return wrapped
