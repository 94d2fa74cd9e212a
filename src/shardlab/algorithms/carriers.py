"""What an axis may carry in the backend's place, by name: `ranks.run(program, collectives="cheapest")`.

shared_memory: everything, for ranks of one host. cheapest: what is faster in shared memory by measurement, the rest the
backend's. calibrated(model): what a cost model of this machine says. None of them is on unless it is asked for: it
empties the wire that the labs look at.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from shardlab.algorithms import memfd, moves, over_symmetric_memory
from shardlab.algorithms.choose import Cheapest
from shardlab.algorithms.shared_memory import SharedMemory
from shardlab.algorithms.symmetric import symmetric_memory
from shardlab.comm.carrier import Carrier
from shardlab.comm.mesh import Axis
from shardlab.theory.cost import CostModel
from shardlab_kernels.symmetric_memory import SymmetricMemory

KIB, MIB = 1 << 10, 1 << 20
_FIRST_BYTES = 64 * KIB  # a rank's slot to begin with; it grows with what comes
_SYMMETRIC_BYTES = 8 * MIB  # above, NCCL's rings are ahead of a kernel that reads its peers

# The rule of those that have no cost model, from 1 KiB to 16 MiB on 2 to 64 ranks of a machine of two cores
# (`python -m benchmarks --only many_ranks` times it again). A one_shot is one barrier, and reads S of every rank: it is
# ahead of a two_shot while that is small. Over gloo every one of these took longer. Beyond 16 MiB nothing was measured,
# and a segment is two slots of S for each rank, so it is held to 512 MiB.
_ONE_SHOT_BYTES, _ONE_SHOT_READ_BYTES = 512 * KIB, 4 * MIB
_MOST_BYTES, _MOST_SEGMENT_BYTES = 16 * MIB, 512 * MIB

How = tuple[str, str]  # algorithm, transport
Choose = Callable[[str, int, torch.Tensor], How | None]


class InMemory:
    """A comm.carrier.Carrier: the collectives of one axis through memory that its ranks share."""

    def __init__(self, choose: Choose, shared: SharedMemory | None, symmetric: SymmetricMemory | None = None) -> None:
        """`choose`: (op, S, a tensor like it) -> algorithm and transport, or None: the backend. Asked once a size."""
        self._choose, self.shared, self.symmetric = choose, shared, symmetric
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
        algorithm, transport = how
        if transport == "symmetric_memory":
            assert self.symmetric is not None
            partial.copy_(over_symmetric_memory.KERNELS[algorithm](partial, self.symmetric))
        elif algorithm == "one_shot":
            moves.all_reduce_one_shot(partial, partial, self._segment)
        else:
            moves.all_reduce_two_shot(partial, partial, self._segment)

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
    shared = SharedMemory(axis, _FIRST_BYTES)

    def choose(op: str, num_bytes: int, tensor: torch.Tensor) -> How | None:
        return (_algorithm(op, num_bytes, axis.size), "shared_memory") if tensor.device.type == "cpu" else None

    return InMemory(choose, shared)


def cheapest(axis: Axis, device: torch.device) -> Carrier | None:
    """What is faster in shared memory, by the rule above. None, so the backend, on GPUs and where there is no memfd.

    On GPUs nothing has been measured for a rule: give a model, calibrated(model).
    """
    if device.type != "cpu" or not memfd.available()[0]:
        return None
    shared = SharedMemory(axis, _FIRST_BYTES)

    def choose(op: str, num_bytes: int, tensor: torch.Tensor) -> How | None:
        fits = num_bytes <= min(_MOST_BYTES, _MOST_SEGMENT_BYTES // 2 // axis.size)
        return (_algorithm(op, num_bytes, axis.size), "shared_memory") if fits and tensor.device.type == "cpu" else None

    return InMemory(choose, shared)


def calibrated(model: CostModel) -> Callable[[Axis, torch.device], Carrier]:
    """What `model` says is cheapest on this machine (sweep.calibrate fits one): for ranks.run(collectives=...)."""
    return partial(_of_model, model)


def _of_model(model: CostModel, axis: Axis, device: torch.device) -> Carrier:
    known = {key.transport for key in model}
    shared = symmetric = None
    if device.type == "cpu" and "shared_memory" in known and memfd.available()[0]:
        shared = SharedMemory(axis, _FIRST_BYTES)
    if device.type == "cuda" and "symmetric_memory" in known:
        symmetric = symmetric_memory(axis, over_symmetric_memory.room_for(_SYMMETRIC_BYTES, axis.size), device)
    found = Cheapest(model, axis, shared=shared, symmetric=symmetric)

    def choose(op: str, num_bytes: int, tensor: torch.Tensor) -> How | None:
        one = found.in_memory(op, num_bytes, tensor)
        return None if one is None else (one.algorithm, one.transport)

    return InMemory(choose, shared, symmetric)


def _algorithm(op: str, num_bytes: int, size: int) -> str:
    small = num_bytes <= min(_ONE_SHOT_BYTES, _ONE_SHOT_READ_BYTES // size)
    return "one_shot" if op != "all_reduce" or small else "two_shot"
