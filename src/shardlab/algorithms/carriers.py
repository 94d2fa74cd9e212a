"""What an axis may carry in the backend's place, by name: `ranks.run(program, collectives="cheapest")`.

shared_memory: everything, for ranks of one host. cheapest: what is faster in shared memory by measurement, the rest the
backend's. choose.calibrated(model): what a cost model of this machine says. None of them is on unless it is asked for:
it empties the wire that the labs look at. This file loads no kernel, so that a rank which uses it stays small.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from shardlab.algorithms import memfd, moves
from shardlab.algorithms.shared_memory import SharedMemory
from shardlab.comm.carrier import Carrier
from shardlab.comm.mesh import Axis

KIB, MIB = 1 << 10, 1 << 20
FIRST_BYTES = 64 * KIB  # a rank's slot to begin with; it grows with what comes

# The rule of those that have no cost model. Measured on a machine of two cores, 2 to 64 ranks, all five ops, from 4 KiB
# to 16 MiB (4 MiB on 64 ranks), in turns with gloo: gloo took 1.3 to 54 times as long, and on two ranks below 1 MiB
# about as long at worst. (`python -m benchmarks --only many_ranks` times a part of it.) A one_shot is one barrier,
# and reads S of every rank: it is ahead of a two_shot while that is small. Beyond 16 MiB nothing was measured, and a
# segment is two slots of S for each rank, so it is held to 512 MiB.
_ONE_SHOT_BYTES, _ONE_SHOT_READ_BYTES = 512 * KIB, 4 * MIB
_MOST_BYTES, _MOST_SEGMENT_BYTES = 16 * MIB, 512 * MIB

How = tuple[str, str]  # algorithm, transport
Choose = Callable[[str, int, torch.Tensor], How | None]


class InMemory:
    """A comm.carrier.Carrier: the collectives of one axis through memory that its ranks share."""

    def __init__(self, choose: Choose, shared: SharedMemory | None) -> None:
        """`choose`: (op, S, a tensor like it) -> algorithm and transport, or None: the backend. Asked once a size."""
        self._choose, self.shared = choose, shared
        self._known: dict[tuple[str, int, torch.dtype, str], How | None] = {}

    def how(self, op: str, num_bytes: int, tensor: torch.Tensor) -> How | None:
        """(algorithm, transport) of what would run `op` at size S; None: the backend would."""
        key = (op, num_bytes, tensor.dtype, tensor.device.type)
        if key not in self._known:
            self._known[key] = self._choose(op, num_bytes, tensor)
        return self._known[key]

    def takes(self, op: str, num_bytes: int, tensor: torch.Tensor) -> bool:
        return self.how(op, num_bytes, tensor) is not None

    def all_reduce(self, partial: torch.Tensor) -> None:
        how = self.how("all_reduce", partial.nbytes, partial)
        assert how is not None, "comm asks first"
        shot = moves.all_reduce_one_shot if how[0] == "one_shot" else moves.all_reduce_two_shot
        shot(partial, partial, self._segment)

    def all_gather(self, gathered: torch.Tensor, local: torch.Tensor) -> None:
        moves.all_gather(gathered, local, self._segment)

    def reduce_scatter(self, out: torch.Tensor, slices: torch.Tensor) -> None:
        moves.reduce_scatter(out, slices, self._segment)

    def all_to_all(self, received: torch.Tensor, slices: torch.Tensor) -> None:
        moves.all_to_all(received, slices, self._segment)

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        moves.from_one(tensor, tensor, self._segment, src, range(self._segment.axis.size))

    @property
    def _segment(self) -> SharedMemory:
        assert self.shared is not None
        return self.shared


def shared_memory(axis: Axis, device: torch.device) -> Carrier:
    """Every collective of CPU tensors through shared memory. Collective; memory as in SharedMemory, and its errors."""
    shared = SharedMemory(axis, FIRST_BYTES)

    def choose(op: str, num_bytes: int, tensor: torch.Tensor) -> How | None:
        return (_algorithm(op, num_bytes, axis.size), "shared_memory") if tensor.device.type == "cpu" else None

    return InMemory(choose, shared)


def cheapest(axis: Axis, device: torch.device) -> Carrier | None:
    """What is faster in shared memory, by the rule above. None, so the backend, on GPUs and where there is no memfd.

    On GPUs nothing has been measured for a rule: give a model, choose.calibrated(model).
    """
    if device.type != "cpu" or not memfd.available()[0]:
        return None
    shared = SharedMemory(axis, FIRST_BYTES)

    def choose(op: str, num_bytes: int, tensor: torch.Tensor) -> How | None:
        fits = num_bytes <= min(_MOST_BYTES, _MOST_SEGMENT_BYTES // 2 // axis.size)
        return (_algorithm(op, num_bytes, axis.size), "shared_memory") if fits and tensor.device.type == "cpu" else None

    return InMemory(choose, shared)


def _algorithm(op: str, num_bytes: int, size: int) -> str:
    small = num_bytes <= min(_ONE_SHOT_BYTES, _ONE_SHOT_READ_BYTES // size)
    return "one_shot" if op != "all_reduce" or small else "two_shot"
