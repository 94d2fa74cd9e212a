"""What a collective costs: T = base + alpha * hops + S_wire / b + c * sqrt(S_wire).

hops and S_wire come from theory.collectives: the rounds that must follow one another, and the bytes on the critical
path. The constants belong to one implementation on one kind of link; measure.fit finds them.

alpha  seconds a hop, whatever is sent: one message's latency.
b      bytes/s of one port in one direction.
c      the price of chunking. Whoever forwards a message over several hops cuts it into chunks: few chunks leave the
       later hops idle, many take alpha often. The best number of chunks costs a term in sqrt(S); `pipelined_s` below
       derives it. Hockney's line alpha + S/b (1994) is the case c = 0.
base   seconds a call, however many hops it has: launching a kernel, waking the ranks. With one world size it cannot
       be kept apart from alpha * hops, and it is 0. One fit over several world sizes needs it, or the launch would be
       counted once a hop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from shardlab.theory import collectives
from shardlab.theory.hardware import Link


class TimeOf(Protocol):
    """Anything that says how many seconds a collective takes: a link, NCCL's own model, a fitted model."""

    def __call__(self, op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None) -> float: ...


@dataclass(frozen=True)
class Cost:
    """Constants of one implementation. bandwidth_Bps=inf: no term in S. sqrt_s: seconds per sqrt(byte).

    Raises ValueError for a constant that is negative, not finite, or no bandwidth at all.
    """

    alpha_s: float
    bandwidth_Bps: float
    sqrt_s: float = 0.0
    base_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("alpha_s", "sqrt_s", "base_s"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value}; allowed: 0 or more, finite")
        if not self.bandwidth_Bps > 0:
            raise ValueError(f"bandwidth_Bps={self.bandwidth_Bps}; allowed: above 0, one direction")

    def time_s(self, hops: int, wire_bytes: float) -> float:
        """Seconds for `wire_bytes` over `hops` rounds; 0 for no hops, since nobody calls anybody."""
        if hops < 0 or not wire_bytes >= 0:
            raise ValueError(f"hops={hops}, wire_bytes={wire_bytes}; allowed: 0 or more")
        if hops == 0:
            return 0.0
        chunking_s = self.sqrt_s * math.sqrt(wire_bytes)
        return self.base_s + self.alpha_s * hops + wire_bytes / self.bandwidth_Bps + chunking_s


@dataclass(frozen=True)
class FusedNorm:
    """What all-reduce, residual add and RMSNorm cost in one kernel, and what the add and norm cost alone.

    Both are measured on the machine, by bytes of the tensor: `Cost` with one hop and S for the bytes on its path.
    """

    fused: Cost
    norm: Cost

    def time_s(self, num_bytes: float) -> float:
        """Seconds of the fused kernel for a tensor of S bytes."""
        return self.fused.time_s(1, num_bytes)

    def norm_s(self, num_bytes: float) -> float:
        """Seconds of add_rms_norm alone."""
        return self.norm.time_s(1, num_bytes)


class Key(NamedTuple):
    """What a fitted cost is known for."""

    op: str
    algorithm: str
    transport: str
    world_size: int


class Choice(NamedTuple):
    """One implementation by its three names."""

    op: str
    algorithm: str
    transport: str


class CostModel(Mapping[Key, Cost]):
    """(op, algorithm, transport, world_size) -> Cost: a machine, as far as it has been measured.

    Nothing is guessed: a world size that was not measured is a ValueError.
    """

    def __init__(self, costs: Mapping[tuple[str, str, str, int], Cost]) -> None:
        self._costs = {Key(*key): cost for key, cost in costs.items()}
        for key in self._costs:  # an unknown op, algorithm or world size is refused here, not at the first question
            collectives.steps(key.op, world_size=key.world_size, algorithm=key.algorithm)

    def __getitem__(self, key: tuple[str, str, str, int]) -> Cost:
        return self._costs[Key(*key)]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._costs)

    def __len__(self) -> int:
        return len(self._costs)

    def time_s(
        self, op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None, transport: str | None = None
    ) -> float:
        """Seconds of op; 0 for one rank. Where algorithm or transport is None: the cheapest of those known.

        So `model.time_s` is a TimeOf. Raises ValueError where nothing that matches was measured.
        """
        return self._cheapest(op, num_bytes, world_size, algorithm, transport)[0]

    def best(self, op: str, num_bytes: float, world_size: int) -> Choice:
        """The cheapest known implementation for this size; of equals, the one that was put in first."""
        return self._cheapest(op, num_bytes, world_size, None, None)[1]

    def crossover_bytes(self, op: str, a: tuple[str, str], b: tuple[str, str], world_size: int) -> float | None:
        """The smallest size at which (algorithm, transport) a and b change places; None where they never do."""

        def seconds(name: tuple[str, str]) -> Callable[[float], float]:
            return lambda size: self.time_s(
                op, num_bytes=size, world_size=world_size, algorithm=name[0], transport=name[1]
            )

        return crossover_bytes(seconds(a), seconds(b))

    def _cheapest(
        self, op: str, num_bytes: float, world_size: int, algorithm: str | None, transport: str | None
    ) -> tuple[float, Choice]:
        found: tuple[float, Choice] | None = None
        for key, cost in self._costs.items():
            wanted = key.op == op and (world_size in (1, key.world_size))
            if not wanted or algorithm not in (None, key.algorithm) or transport not in (None, key.transport):
                continue
            hops, path_bytes = critical_path(op, num_bytes=num_bytes, world_size=world_size, algorithm=key.algorithm)
            seconds = cost.time_s(hops, path_bytes)
            if found is None or seconds < found[0]:
                found = seconds, Choice(*key[:3])
        if found is None:
            known = ", ".join("/".join(map(str, key)) for key in self._costs) or "nothing"
            asked = "/".join(str(part or "any") for part in (op, algorithm, transport, world_size))
            raise ValueError(f"{asked} was not measured; known (op/algorithm/transport/world_size): {known}")
        return found


def critical_path(op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None) -> tuple[int, float]:
    """(hops, bytes on the critical path) of one collective, by theory.collectives. (0, 0.0) for one rank."""
    hops = collectives.steps(op, world_size=world_size, algorithm=algorithm)
    # A link of 1 byte/s and no latency takes as many seconds as there are bytes on the path.
    path_bytes = collectives.time_s(
        op, num_bytes=num_bytes, world_size=world_size, link=Link(0.0, 1.0), algorithm=algorithm
    )
    return hops, path_bytes


def of_link(link: Link) -> TimeOf:
    """The alpha-beta line of theory.collectives over one link, as a TimeOf."""

    def time_s(op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None) -> float:
        return collectives.time_s(op, num_bytes=num_bytes, world_size=world_size, link=link, algorithm=algorithm)

    return time_s


def pipelined_s(
    num_bytes: float, *, hops: int, alpha_s: float, bandwidth_Bps: float, num_chunks: int | None = None
) -> float:
    """Seconds to send num_bytes over `hops` links in a row, cut into chunks that follow one another.

    The last of k chunks leaves after k turns and has hops - 1 links still before it, so
    T(k) = (k + hops - 1) * (alpha + S / (k b)). dT/dk = 0 at k = sqrt((hops - 1) S / (alpha b)), which gives
    T = (hops - 1) * alpha + S/b + 2 sqrt((hops - 1) alpha S / b): a term in sqrt(S), that no straight line has.
    num_chunks=None takes that k as a real number, at least 1. Thakur, Rabenseifner, Gropp 2005 name the pipeline.
    """
    Cost(alpha_s, bandwidth_Bps)  # its checks
    if hops < 1 or not num_bytes >= 0 or (num_chunks is not None and num_chunks < 1):
        raise ValueError(f"hops={hops}, num_bytes={num_bytes}, num_chunks={num_chunks}; allowed: 1, 0 and 1 or more")
    best = math.sqrt((hops - 1) * num_bytes / (alpha_s * bandwidth_Bps)) if alpha_s else math.inf
    chunks = max(1.0, best) if num_chunks is None else num_chunks
    if math.isinf(chunks):  # without latency, endless chunks: every link works all the time
        return num_bytes / bandwidth_Bps
    return (chunks + hops - 1) * (alpha_s + num_bytes / (chunks * bandwidth_Bps))


def crossover_bytes(
    first: Callable[[float], float], second: Callable[[float], float], *, low: float = 1.0, high: float = 2.0**40
) -> float | None:
    """The smallest size in low..high at which the faster of two becomes the slower; None where none does.

    first and second: bytes -> seconds. Walks up eight steps an octave and bisects the first change of sign; two
    changes within 9 % of a size would cancel unseen.
    """
    if not 0 < low < high:
        raise ValueError(f"low={low}, high={high}; allowed: 0 < low < high")

    def ahead(size: float) -> float:
        return first(size) - second(size)

    below, sign = low, ahead(low)
    while below < high:
        above = min(high, below * 2**0.125)
        reached = ahead(above)
        if sign * reached < 0:
            return _bisected(ahead, below, above)
        if reached:  # at a tie the lead is still whose it was
            sign = reached
        below = above
    return None


def _bisected(ahead: Callable[[float], float], below: float, above: float) -> float:
    """Where `ahead` changes sign, to a part in 2^50."""
    start = ahead(below)
    for _ in range(50):
        middle = math.sqrt(below * above)
        if ahead(middle) * start > 0:
            below = middle
        else:
            above = middle
    return above
