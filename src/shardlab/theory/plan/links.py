"""What one collective of a plan costs: which ranks it joins, which links lie between them, how long it takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Protocol

from shardlab.theory.cost import TimeOf
from shardlab.theory.degrees import AXES, Plan
from shardlab.theory.ledger import Transfer


class LevelTime(Protocol):
    """Seconds of one collective among ranks_per_node * num_nodes ranks."""

    def __call__(self, op: str, *, num_bytes: float, ranks_per_node: int, num_nodes: int) -> float: ...


def one_level(time_of: TimeOf) -> LevelTime:
    """All ranks see the same link: one machine, or a model that knows only how many they are."""

    def level_time(op: str, *, num_bytes: float, ranks_per_node: int, num_nodes: int) -> float:
        return time_of(op, num_bytes=num_bytes, world_size=ranks_per_node * num_nodes)

    return level_time


@dataclass(frozen=True)
class Spread:
    """Where the ranks of one group sit: so many nodes, so many of them on the fullest."""

    ranks_per_node: int
    num_nodes: int


WITHIN, ACROSS = Spread(2, 1), Spread(1, 2)  # two neighbours on one node, on two nodes


def groups(plan: Plan, axis: str) -> tuple[tuple[int, ...], ...]:
    """The groups of global ranks that talk to each other on an axis, in the order of the mesh (tp fastest).

    ep: `ep` neighbours among a stage's ranks, counted tp, cp, dp.
    """
    strides = {name: _stride(plan, name) for name in AXES}
    sizes = {name: getattr(plan, name) for name in AXES}
    if axis != "ep":
        others = [name for name in AXES if name != axis]
        starts = [sum(at[name] * strides[name] for name in others) for at in _places(sizes, others)]
        return tuple(tuple(start + i * strides[axis] for i in range(sizes[axis])) for start in starts)
    found = []
    for stage in range(plan.pp):
        line = [
            dp * strides["dp"] + stage * strides["pp"] + cp * strides["cp"] + tp
            for dp in range(plan.dp)
            for cp in range(plan.cp)
            for tp in range(plan.tp)
        ]
        found += [tuple(line[i : i + plan.ep]) for i in range(0, len(line), plan.ep)]
    return tuple(found)


def spread(plan: Plan, axis: str, gpus_per_node: int) -> Spread:
    """The group of an axis that is scattered widest over nodes of `gpus_per_node`: it sets the pace."""
    stride, size = _stride(plan, axis), getattr(plan, axis)
    if axis != "ep" or plan.pp == 1:  # ranks at equal distances: where that fits the nodes, all groups are alike
        if gpus_per_node % (stride * size) == 0:
            return Spread(size, 1)
        if stride % gpus_per_node == 0:
            return Spread(1, size)
        if gpus_per_node % stride == 0 and (stride * size) % gpus_per_node == 0:
            return Spread(gpus_per_node // stride, stride * size // gpus_per_node)

    def of(ranks: tuple[int, ...]) -> Spread:
        nodes = Counter(rank // gpus_per_node for rank in ranks)
        return Spread(max(nodes.values()), len(nodes))

    return max((of(ranks) for ranks in groups(plan, axis)), key=lambda one: (one.num_nodes, one.ranks_per_node))


def _stride(plan: Plan, axis: str) -> int:
    """How far two neighbours on an axis are apart; 1 for ep where a stage's ranks are neighbours."""
    inner = {"tp": (), "ep": (), "cp": ("tp",), "pp": ("cp", "tp"), "dp": ("pp", "cp", "tp")}[axis]
    return prod(getattr(plan, name) for name in inner)


@dataclass(frozen=True)
class CommTime:
    """Seconds of a list of transfers, by what they are made of."""

    latency_s: float  # what the same collectives take with next to nothing in them
    bandwidth_s: float  # the rest: it grows with the bytes

    @property
    def total_s(self) -> float:
        return self.latency_s + self.bandwidth_s

    def __add__(self, other: CommTime) -> CommTime:
        return CommTime(self.latency_s + other.latency_s, self.bandwidth_s + other.bandwidth_s)


NOTHING = CommTime(0.0, 0.0)


class Pricing:
    """The price of each transfer of one plan; equal ones are looked up once."""

    def __init__(self, plan: Plan, gpus_per_node: int, level_time: LevelTime) -> None:
        self.plan = plan
        self._gpus_per_node = gpus_per_node
        self._level_time = level_time
        self._spreads: dict[str, Spread] = {}
        self._known: dict[tuple[str, int, Spread], CommTime] = {}

    def comm_time(self, transfers: list[Transfer]) -> CommTime:
        """These transfers one after the other; a stage's send to the next one is left to `boundary`."""
        latency_s = bandwidth_s = 0.0
        for (op, axis, num_bytes), count in Counter((one.op, one.axis, one.num_bytes) for one in transfers).items():
            if axis != "pp":
                one = self._one(op, axis, num_bytes)
                latency_s, bandwidth_s = latency_s + count * one.latency_s, bandwidth_s + count * one.bandwidth_s
        return CommTime(latency_s, bandwidth_s)

    def boundary(self, stage: int, num_bytes: int) -> CommTime:
        """A send from this stage to the next one: over the network where any two of their ranks are on other nodes."""
        plan, node = self.plan, self._gpus_per_node
        width = plan.cp * plan.tp
        starts = {replica * plan.pp * width % node for replica in range(plan.dp)}
        senders = (start + stage * width + place for start in starts for place in range(width))
        crosses = width >= node or any(rank // node != (rank + width) // node for rank in senders)
        return self._priced("send", num_bytes, ACROSS if crosses else WITHIN)

    def _one(self, op: str, axis: str, num_bytes: int) -> CommTime:
        if axis not in self._spreads:
            self._spreads[axis] = spread(self.plan, axis, self._gpus_per_node)
        place = self._spreads[axis]
        if op == "send":  # between two neighbours of the group, the slowest pair of them
            place = ACROSS if place.num_nodes > 1 else WITHIN
        return self._priced(op, num_bytes, place)

    def _priced(self, op: str, num_bytes: int, place: Spread) -> CommTime:
        key = (op, num_bytes, place)
        if key not in self._known:
            sizes = {"ranks_per_node": place.ranks_per_node, "num_nodes": place.num_nodes}
            total_s = self._level_time(op, num_bytes=num_bytes, **sizes)
            latency_s = min(self._level_time(op, num_bytes=1, **sizes), total_s)
            self._known[key] = CommTime(latency_s, total_s - latency_s)
        return self._known[key]


def _places(sizes: dict[str, int], names: list[str]) -> list[dict[str, int]]:
    found: list[dict[str, int]] = [{}]
    for name in names:
        found = [{**at, name: i} for at in found for i in range(sizes[name])]
    return found
