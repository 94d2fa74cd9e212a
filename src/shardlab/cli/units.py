"""Sizes and times as people type them: 64M, 1GiB, 50ms. Each is a parser for an option of the command line."""

from __future__ import annotations

import re

import typer

# K, M and G alone are powers of two, as in nccl-tests; with a B they are decimal, as everywhere in this project.
_BYTES = {
    **{"": 1, "b": 1},
    **{"k": 2**10, "m": 2**20, "g": 2**30},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30},
    **{"kb": 10**3, "mb": 10**6, "gb": 10**9},
}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_NUMBER = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>[^\W\d_]*)")


def size_bytes(text: str) -> int:
    """'1K' -> 1024, '64MiB' -> 67108864, '1GB' -> 1000000000, '4096' -> 4096. Raises typer.BadParameter."""
    number, factor = _parse(text, _BYTES, "a size", "a number of bytes, or one with K, M, G, KiB, MiB, GiB, KB, MB, GB")
    value = number * factor
    if value != round(value) or value < 1:
        raise typer.BadParameter(f"{text!r} is {value:g} bytes; allowed: whole bytes, 1 or more")
    return round(value)


def seconds(text: str) -> float:
    """'50ms' -> 0.05, '2s' -> 2.0, '300us' -> 0.0003. The unit must be given. Raises typer.BadParameter."""
    number, factor = _parse(text, _SECONDS, "a time", "a number with ns, us, ms, s, min or h, like 50ms")
    if number == 0:
        raise typer.BadParameter(f"{text!r}: a time above 0 is needed")
    return number * factor


def _parse(text: str, units: dict[str, float] | dict[str, int], what: str, allowed: str) -> tuple[float, float]:
    match = _NUMBER.fullmatch(text.strip())
    unit = match["unit"].lower() if match else ""
    # 400 digits are a number too, and too large for a float to hold
    if match is None or unit not in units or len(match["number"]) > 30:
        raise typer.BadParameter(f"{text!r} is not {what}; allowed: {allowed}")
    return float(match["number"]), units[unit]
