"""The rank grid. A Mesh says where this rank sits; an Axis is one row of the grid with its process group.

Which ranks are on which axis is theory.degrees' to say: dp x pp x cp x tp, tp fastest, and ep as an alias.
Nothing here is global: a program is given its Mesh and hands an Axis to whoever needs to communicate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist

from shardlab.comm.carrier import Carrier
from shardlab.comm.recorder import Recorder
from shardlab.theory.degrees import ALL_AXES, Plan, axis_ranks, groups


@dataclass(frozen=True)
class Axis:
    """One line of ranks through the grid: this rank's position on it, and the group that it communicates in.

    `carrier`: what runs its collectives where it is cheaper than the backend; None: the backend runs them all.
    """

    name: str
    rank: int
    size: int
    ranks: tuple[int, ...]
    group: dist.ProcessGroup | None = field(repr=False, compare=False)
    recorder: Recorder = field(repr=False, compare=False)
    carrier: Carrier | None = field(default=None, repr=False, compare=False)

    @classmethod
    def single(cls, name: str = "tp") -> Axis:
        """An axis of one rank: every collective on it returns at once."""
        return cls(name, 0, 1, (0,), None, Recorder())


Make = Callable[[Axis, torch.device], Carrier | None]  # what gives an axis its carrier, or leaves it to the backend


class Mesh:
    """The grid as one rank sees it: `mesh["tp"]` is this rank's tp Axis."""

    def __init__(self, plan: Plan, rank: int, axes: dict[str, Axis], device: torch.device, recorder: Recorder) -> None:
        self.plan = plan
        self.rank = rank
        self.world_size = plan.world_size
        self.device = device
        self.recorder = recorder
        self._axes = axes
        self._carried: dict[Make, Mesh] = {}

    def __getitem__(self, name: str) -> Axis:
        if name not in self._axes:
            raise KeyError(f"no axis {name!r} in the mesh; it has {', '.join(self._axes)}")
        return self._axes[name]

    def __repr__(self) -> str:
        grid = " ".join(f"{a.name}={a.rank}/{a.size}" for a in self._axes.values())
        return f"Mesh(rank={self.rank}/{self.world_size} {grid} {self.device.type})"

    def carried(self, make: Make) -> Mesh:
        """The same grid; each axis of two ranks or more has the carrier that `make(axis, device)` gives it.

        Made at the first call and kept with this mesh. Collective: every rank of the plan calls it with the same
        `make`. Raises what `make` raises.
        """
        if make in self._carried:
            return self._carried[make]
        axes = {
            name: replace(axis, carrier=make(axis, self.device)) if axis.size > 1 else axis
            for name, axis in self._axes.items()
        }
        mesh = self._carried[make] = Mesh(self.plan, self.rank, axes, self.device, self.recorder)
        return mesh

    @classmethod
    def single(cls, device: torch.device | str = "cpu") -> Mesh:
        """A mesh of one rank, with no process group: the reference that every sharded layer is held to."""
        return cls.build(Plan(), 0, Recorder(), torch.device(device))

    @classmethod
    def build(cls, plan: Plan, rank: int, recorder: Recorder, device: torch.device) -> Mesh:
        """Make this rank's axes. Every rank of the default process group must call this or make_groups(plan)."""
        process_groups = make_groups(plan)
        axes = {}
        for name in ALL_AXES:
            ranks = axis_ranks(rank, plan, name)
            axes[name] = Axis(name, ranks.index(rank), len(ranks), ranks, process_groups.get(ranks), recorder)
        return cls(plan, rank, axes, device, recorder)


def make_groups(plan: Plan) -> dict[tuple[int, ...], dist.ProcessGroup]:
    """Global ranks -> process group, for every line of the grid with more than one rank. Axes may share one (ep, tp).

    torch wants every rank of the default process group to make every group, in the same order: those that are not in
    the plan call this and keep nothing. (Its use_local_synchronization names a group by how many its members already
    have, so ranks with different pasts wait for each other for ever.)
    """
    lines = dict.fromkeys(line for name in ALL_AXES for line in groups(plan, name) if len(line) > 1)
    whole = tuple(range(dist.get_world_size())) if lines else ()
    made = {}
    for line in lines:
        made[line] = dist.group.WORLD if line == whole else dist.new_group(list(line))
    return made
