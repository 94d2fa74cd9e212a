"""The list of goals, benchmarks/goals.toml: what each is called, what it asks, and which bench decides it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Goal:
    """One promise. `bench` is the module here that decides it, "kernels" for the kernels' bench, "" for none yet."""

    name: str
    what: str
    least: str
    aim: str
    bench: str


@cache
def goals() -> dict[str, Goal]:
    """key -> goal, in the order of the file. TypeError for a goal with an unknown or a missing part."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return {key: Goal(**row) for key, row in tomllib.loads(text).items()}


def name_of(key: str) -> str:
    """ "C8" -> "start of ranks"; "" stays "": a row that only explains another. KeyError for a goal not in the list."""
    return goals()[key].name if key else ""
