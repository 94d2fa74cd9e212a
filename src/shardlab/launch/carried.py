"""Whose collectives a run uses: the backend's, or what algorithms.carriers makes, by name.

The launcher does not load what runs on it. It sends the name, and each rank looks it up: only ranks that are asked for
it load the algorithms. The memory is made once a plan, before the run is recorded, and lives as long as the ranks.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from shardlab.comm.carrier import Carrier
from shardlab.comm.mesh import Axis, Mesh
from shardlab.launch import pickles

NAMES = {
    "shared_memory": "shardlab.algorithms.carriers:shared_memory",
    "cheapest": "shardlab.algorithms.carriers:cheapest",
}

Collectives = str | Callable[[Axis, torch.device], Carrier | None] | None


@dataclass(frozen=True)
class Maker:
    """What makes an axis's carrier, as it travels: a name, or the bytes of a callable. Equal ones make it once."""

    what: str | bytes

    def __call__(self, axis: Axis, device: torch.device) -> Carrier | None:
        make = pkgutil.resolve_name(self.what) if isinstance(self.what, str) else pickles.loads(self.what)
        return make(axis, device)


def maker(collectives: Collectives) -> Maker | None:
    """None: the backend runs them all. Raises ValueError for an unknown name, TypeError for what is neither."""
    if collectives is None or collectives == "backend":
        return None
    if isinstance(collectives, str):
        if collectives not in NAMES:
            raise ValueError(f"collectives={collectives!r}; allowed: backend, {', '.join(NAMES)}")
        return Maker(NAMES[collectives])
    if not callable(collectives):
        raise TypeError(f"collectives={collectives!r}: a name or a callable (axis, device) -> carrier is needed")
    return Maker(pickles.dumps(collectives))


def prepare(mesh: Mesh, make: Maker) -> None:
    """On every rank of the plan: the carriers of its axes, before anything is recorded or counted."""
    mesh.carried(make)


def under(mesh: Mesh, make: Maker, call: bytes) -> Any:
    """On every rank of the plan: the program of `call` (pickles.dump_call) on a mesh whose axes have their carriers."""
    program, args, kwargs = pickles.loads(call)
    return program(mesh.carried(make), *args, **kwargs)
