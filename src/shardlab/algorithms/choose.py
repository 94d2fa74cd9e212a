"""The cheapest implementation of a collective, by a cost model: chosen by size, then run.

The model has to be the same on every rank (calibrate it in the notebook, and pass it to the program): ranks that chose
differently would wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from shardlab import ops
from shardlab.algorithms import memfd, over_symmetric_memory, registry
from shardlab.algorithms.carriers import FIRST_BYTES, How, InMemory
from shardlab.algorithms.registry import Implementation
from shardlab.algorithms.shared_memory import SharedMemory
from shardlab.algorithms.symmetric import symmetric_memory
from shardlab.comm.carrier import Carrier
from shardlab.comm.mesh import Axis
from shardlab.theory.cost import CostModel, FusedNorm
from shardlab_kernels.all_reduce_rms_norm import all_reduce_rms_norm
from shardlab_kernels.symmetric_memory import SymmetricMemory

_SYMMETRIC_BYTES = 8 << 20  # above, a ring is ahead of a kernel that reads its peers
TRANSPORTS = ("backend", "send_recv", "shared_memory", "symmetric_memory")


class Cheapest:
    """The collectives on one axis, each by whatever the model says is cheapest at that size and can run here."""

    def __init__(
        self,
        model: CostModel,
        axis: Axis,
        *,
        shared: SharedMemory | None = None,
        symmetric: SymmetricMemory | None = None,
        fused: FusedNorm | None = None,
        transports: Sequence[str] = TRANSPORTS,
    ) -> None:
        """`shared`, `symmetric`: the axis' memory of that kind; without one, nothing over it is chosen.

        `fused`: what the fused all-reduce and norm costs; without it the fused kernel is never chosen.
        Raises ValueError for an unknown transport.
        """
        unknown = [name for name in transports if name not in TRANSPORTS]
        if unknown:
            raise ValueError(f"transport {unknown[0]!r}; allowed: {', '.join(TRANSPORTS)}")
        self.axis, self._shared, self._symmetric, self._fused = axis, shared, symmetric, fused
        self._model = CostModel(
            {
                key: cost
                for key, cost in model.items()
                if key.transport in transports
                and (shared is not None or key.transport != "shared_memory")
                and (symmetric is not None or key.transport != "symmetric_memory")
                and Implementation(*key[:3]) in (*registry.IMPLEMENTATIONS, *registry.SYMMETRIC)
            }
        )
        self._known: dict[tuple[str, int, bool, bool], Implementation] = {}

    def choice(self, op: str, num_bytes: int, *, on_cpu: bool = True, added: bool = True) -> Implementation:
        """What would run `op` at size S = num_bytes. Raises ValueError where the model knows nothing that can.

        `added`: whether the kernels over symmetric memory add up tensors of this dtype.
        """
        found = self._known.get((op, num_bytes, on_cpu, added))
        if found is None:  # a model of thirty implementations takes longer to ask than a small collective to run
            found = Implementation(*self._possible(num_bytes, on_cpu, added).best(op, num_bytes, self.axis.size))
            self._known[op, num_bytes, on_cpu, added] = found
        return found

    def in_memory(self, op: str, num_bytes: int, tensor: torch.Tensor) -> Implementation | None:
        """The choice for a tensor like this one, where that is shared or symmetric memory; None: leave it to comm.

        For a carrier of the axis (algorithms.carriers): an op, or a number of ranks, that was not measured is comm's.
        """
        on_cpu, added = tensor.device.type == "cpu", over_symmetric_memory.adds(tensor.dtype)
        try:
            one = self.choice(op, num_bytes, on_cpu=on_cpu, added=added)
        except ValueError:
            return None
        return one if one.transport in ("shared_memory", "symmetric_memory") else None

    def all_reduce(self, partial: torch.Tensor) -> torch.Tensor:
        """A{X} -> A, a new tensor."""
        return self._run("all_reduce", partial, partial.nbytes)

    def all_reduce_rms_norm(
        self, partial: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A[...,D]{X}, residual[...,D], weight[D] -> (norm of their sum [...,D], the sum): fused where faster."""
        if self.fuses(partial.nbytes, on_cpu=partial.device.type == "cpu"):
            assert self._symmetric is not None
            return all_reduce_rms_norm(partial, residual, weight, eps, self._symmetric)
        total = self.all_reduce(partial) if self.axis.size > 1 else partial
        return ops.add_rms_norm(total, residual, weight, eps)

    def fuses(self, num_bytes: int, *, on_cpu: bool = True) -> bool:
        """Whether one kernel for all-reduce and norm is forecast to beat the cheapest all_reduce and then the norm."""
        if self._fused is None or self._symmetric is None or self.axis.size == 1:
            return False
        if not over_symmetric_memory.fits("one_shot", num_bytes, self._symmetric):
            return False
        apart_s = self._possible(num_bytes, on_cpu).time_s("all_reduce", num_bytes=num_bytes, world_size=self.axis.size)
        return self._fused.time_s(num_bytes) < apart_s + self._fused.norm_s(num_bytes)

    def all_gather(self, local: torch.Tensor) -> torch.Tensor:
        """A[I_X, J] -> A[I, J]. Shards of equal shape, along dim 0."""
        return self._run("all_gather", local, local.nbytes * self.axis.size)

    def reduce_scatter(self, partial: torch.Tensor) -> torch.Tensor:
        """A[I, J]{X} -> A[I_X, J]."""
        return self._run("reduce_scatter", partial, partial.nbytes)

    def all_to_all(self, local: torch.Tensor) -> torch.Tensor:
        """Part j of rank i -> part i of rank j, along dim 0."""
        return self._run("all_to_all", local, local.nbytes)

    def broadcast(self, tensor: torch.Tensor, src: int = 0) -> torch.Tensor:
        """A on rank `src` of the axis -> A on every rank; the other ranks' tensors give shape and dtype."""
        return self._run("broadcast", tensor, tensor.nbytes, src)

    def _run(self, op: str, tensor: torch.Tensor, num_bytes: int, src: int = 0) -> torch.Tensor:
        if self.axis.size == 1:
            return tensor.clone()
        added = over_symmetric_memory.adds(tensor.dtype)
        one = self.choice(op, num_bytes, on_cpu=tensor.device.type == "cpu", added=added)
        return registry.run(
            op,
            tensor,
            self.axis,
            algorithm=one.algorithm,
            transport=one.transport,
            shared=self._shared if one.transport == "shared_memory" else None,
            symmetric=self._symmetric if one.transport == "symmetric_memory" else None,
            src=src,
        )

    def _possible(self, num_bytes: int, on_cpu: bool, added: bool = True) -> CostModel:
        """The model without what cannot take a tensor of this size and dtype, there."""

        def can(algorithm: str, transport: str) -> bool:
            if transport == "symmetric_memory":
                memory = self._symmetric
                return added and memory is not None and over_symmetric_memory.fits(algorithm, num_bytes, memory)
            return on_cpu or transport != "shared_memory"

        return CostModel({key: cost for key, cost in self._model.items() if can(key.algorithm, key.transport)})


class InChosenMemory(InMemory):
    """A comm.carrier.Carrier that runs what Cheapest chose, where that is shared memory or a kernel over symmetric."""

    def __init__(self, cheapest: Cheapest, shared: SharedMemory | None, symmetric: SymmetricMemory | None) -> None:
        def choose(op: str, num_bytes: int, tensor: torch.Tensor) -> How | None:
            one = cheapest.in_memory(op, num_bytes, tensor)
            return None if one is None else (one.algorithm, one.transport)

        super().__init__(choose, shared)
        self.symmetric = symmetric

    def all_reduce(self, partial: torch.Tensor) -> None:
        how = self.how("all_reduce", partial.nbytes, partial)
        if how is None or how[1] != "symmetric_memory":
            super().all_reduce(partial)
        else:
            assert self.symmetric is not None
            partial.copy_(over_symmetric_memory.KERNELS[how[0]](partial, self.symmetric))


def calibrated(model: CostModel) -> Callable[[Axis, torch.device], Carrier]:
    """What `model` says is cheapest on this machine (sweep.calibrate fits one): for ranks.run(collectives=...).

    An op, or a number of ranks, that it does not know is the backend's.
    """
    return partial(_carrier, model)


def _carrier(model: CostModel, axis: Axis, device: torch.device) -> Carrier:
    known = {key.transport for key in model}
    shared = symmetric = None
    if device.type == "cpu" and "shared_memory" in known and memfd.available()[0]:
        shared = SharedMemory(axis, FIRST_BYTES)
    if device.type == "cuda" and "symmetric_memory" in known:
        symmetric = symmetric_memory(axis, over_symmetric_memory.room_for(_SYMMETRIC_BYTES, axis.size), device)
    return InChosenMemory(Cheapest(model, axis, shared=shared, symmetric=symmetric), shared, symmetric)
