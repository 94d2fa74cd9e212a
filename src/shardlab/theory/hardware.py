"""Links and accelerators. The numbers are in hardware.toml, each with its source, date and direction."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Link:
    """One port of one rank: `alpha_s` seconds a step and `bandwidth_Bps` bytes/s in one direction.

    alpha_s=0 gives the bandwidth term alone. Raises ValueError for a negative latency or no bandwidth.
    """

    alpha_s: float
    bandwidth_Bps: float
    name: str = ""

    def __post_init__(self) -> None:
        if not self.alpha_s >= 0:
            raise ValueError(f"alpha_s={self.alpha_s}; allowed: 0 or more seconds")
        if not self.bandwidth_Bps > 0:
            raise ValueError(f"bandwidth_Bps={self.bandwidth_Bps}; allowed: above 0 bytes/s, one direction")


@dataclass(frozen=True)
class Accelerator:
    """One GPU by its data sheet: memory in bytes, HBM in bytes/s, dense bf16 FLOP/s, link to its peers."""

    name: str
    memory_bytes: float
    hbm_Bps: float
    bf16_flops: float
    link: Link


@cache
def catalogue() -> dict[str, dict[str, Any]]:
    """hardware.toml as it stands: table -> entry -> {field: {value, unit, direction, source, date}}."""
    return tomllib.loads(files("shardlab.theory").joinpath("hardware.toml").read_text(encoding="utf-8"))


def link(name: str) -> Link:
    """A link of the catalogue, with the latency that it gives for one step (0 where no source has one)."""
    entry = _entry("link", name)
    alpha_s = entry["alpha_s"]["value"] if "alpha_s" in entry else 0.0
    return Link(alpha_s, entry["bandwidth_Bps"]["value"], name)


def accelerator(name: str) -> Accelerator:
    """An accelerator of the catalogue."""
    entry = _entry("accelerator", name)
    return Accelerator(
        name=name,
        memory_bytes=entry["memory_bytes"]["value"],
        hbm_Bps=entry["hbm_Bps"]["value"],
        bf16_flops=entry["bf16_flops"]["value"],
        link=link(entry["link"]),
    )


def _entry(table: str, name: str) -> dict[str, Any]:
    known = catalogue()[table]
    if name not in known:
        raise ValueError(f"{table}={name!r} is not in hardware.toml; it has: {', '.join(known)}")
    return known[name]
