"""Every implementation of a collective, by its three names: the operation, the algorithm and the transport.

`run` is one call of one of them. It loads all of them, the Triton kernels over symmetric memory too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from shardlab.algorithms import (
    backend,
    binomial_tree,
    direct,
    over_shared_memory,
    over_symmetric_memory,
    recursive_doubling,
    ring,
)
from shardlab.algorithms.shared_memory import SharedMemory
from shardlab.comm.mesh import Axis
from shardlab_kernels.symmetric_memory import SymmetricMemory


@dataclass(frozen=True, order=True)
class Implementation:
    """One way to do one collective."""

    op: str
    algorithm: str
    transport: str

    def __str__(self) -> str:
        return f"{self.op} {self.algorithm} {self.transport}"


def run(
    op: str,
    tensor: torch.Tensor,
    axis: Axis,
    *,
    algorithm: str | None = None,
    transport: str = "backend",
    shared: SharedMemory | None = None,
    symmetric: SymmetricMemory | None = None,
    src: int = 0,
) -> torch.Tensor:
    """One collective by the implementation of that name; `algorithm` None is the transport's first. A new tensor.

    all_reduce: A{X} -> A. all_gather: A[I_X, J] -> A[I, J], shards of equal shape. reduce_scatter: A[I, J]{X} ->
    A[I_X, J]. all_to_all: part j of rank i -> part i of rank j. Parts are those of theory.split.even_split along
    dim 0, for any length. broadcast: A on rank `src` -> A on every rank. send: rank `src` to the next rank, which
    gets A; all others get their own tensor back.
    `shared` is the axis' segment, for "shared_memory"; `symmetric` its symmetric memory. An axis of one rank gets a
    copy of its tensor, and records nothing. Raises ValueError, naming what is allowed.
    """
    if transport == "symmetric_memory" and Implementation(op, algorithm or "one_shot", transport) in SYMMETRIC:
        if symmetric is None:
            raise ValueError(f"symmetric_memory on the {axis.name} axis needs symmetric=symmetric_memory(that axis)")
        return over_symmetric_memory.run(algorithm or "one_shot", tensor.contiguous(), axis, symmetric)
    call = _CALLS.get((op, algorithm or _FIRST.get((op, transport), ""), transport))
    if call is None:
        said = "; ".join(str(one) for one in (*IMPLEMENTATIONS, *SYMMETRIC) if one.op == op)
        said = said or ", ".join(dict.fromkeys(one.op for one in IMPLEMENTATIONS))
        raise ValueError(f"no implementation {op} {algorithm or ''} {transport}; there are: {said}")
    if not 0 <= src < axis.size:
        raise ValueError(f"src={src} is not on the {axis.name} axis of {axis.size} ranks (0..{axis.size - 1})")
    if tensor.dim() == 0 and op in ("all_gather", "reduce_scatter", "all_to_all"):
        raise ValueError(f"{op} of a tensor without dimensions: dim 0 is what it cuts or joins")
    if transport == "shared_memory" and tensor.device.type != "cpu":
        raise ValueError(
            f"shared_memory takes CPU tensors, this one is on {tensor.device}; allowed: backend, send_recv"
        )
    if axis.size == 1:
        return tensor.clone()
    if transport == "shared_memory" and (shared is None or shared.axis is not axis):
        raise ValueError(f"shared_memory on the {axis.name} axis needs shared=SharedMemory(of that axis)")
    return call(tensor.contiguous(), axis, shared, src)


# ----------------------------------------------------------------------------------------------------- the registry


Call = Callable[[torch.Tensor, Axis, SharedMemory | None, int], torch.Tensor]


def _on(function: Callable[[torch.Tensor, Axis], torch.Tensor]) -> Call:
    return lambda tensor, axis, shared, src: function(tensor, axis)


def _over(function: Callable[[torch.Tensor, SharedMemory], torch.Tensor]) -> Call:
    def call(tensor: torch.Tensor, axis: Axis, shared: SharedMemory | None, src: int) -> torch.Tensor:
        assert shared is not None
        return function(tensor, shared)

    return call


def _from(function: Callable[[torch.Tensor, Axis, int], torch.Tensor]) -> Call:
    return lambda tensor, axis, shared, src: function(tensor, axis, src)


def _over_from(function: Callable[[torch.Tensor, SharedMemory, int], torch.Tensor]) -> Call:
    def call(tensor: torch.Tensor, axis: Axis, shared: SharedMemory | None, src: int) -> torch.Tensor:
        assert shared is not None
        return function(tensor, shared, src)

    return call


_CALLS: dict[tuple[str, str, str], Call] = {
    ("all_reduce", "ring", "backend"): _on(backend.all_reduce),
    ("all_reduce", "ring", "send_recv"): _on(ring.all_reduce),
    ("all_reduce", "recursive_doubling", "send_recv"): _on(recursive_doubling.all_reduce),
    ("all_reduce", "binomial_tree", "send_recv"): _on(binomial_tree.all_reduce),
    ("all_reduce", "one_shot", "send_recv"): _on(direct.all_reduce_one_shot),
    ("all_reduce", "two_shot", "send_recv"): _on(direct.all_reduce_two_shot),
    ("all_reduce", "one_shot", "shared_memory"): _over(over_shared_memory.all_reduce_one_shot),
    ("all_reduce", "two_shot", "shared_memory"): _over(over_shared_memory.all_reduce_two_shot),
    ("all_gather", "ring", "backend"): _on(backend.all_gather),
    ("all_gather", "ring", "send_recv"): _on(ring.all_gather),
    ("all_gather", "one_shot", "send_recv"): _on(direct.all_gather),
    ("all_gather", "one_shot", "shared_memory"): _over(over_shared_memory.all_gather),
    ("reduce_scatter", "all_reduce", "backend"): _on(backend.reduce_scatter_by_all_reduce),
    ("reduce_scatter", "one_shot", "backend"): _on(backend.reduce_scatter_by_all_to_all),
    ("reduce_scatter", "ring", "send_recv"): _on(ring.reduce_scatter),
    ("reduce_scatter", "one_shot", "send_recv"): _on(direct.reduce_scatter),
    ("reduce_scatter", "one_shot", "shared_memory"): _over(over_shared_memory.reduce_scatter),
    ("all_to_all", "one_shot", "backend"): _on(backend.all_to_all),
    ("all_to_all", "one_shot", "send_recv"): _on(direct.all_to_all),
    ("all_to_all", "one_shot", "shared_memory"): _over(over_shared_memory.all_to_all),
    ("broadcast", "binomial_tree", "backend"): _from(backend.broadcast),
    ("broadcast", "binomial_tree", "send_recv"): _from(binomial_tree.broadcast),
    ("broadcast", "one_shot", "send_recv"): _from(direct.broadcast),
    ("broadcast", "one_shot", "shared_memory"): _over_from(over_shared_memory.broadcast),
    ("send", "one_shot", "backend"): _from(backend.send),
    ("send", "one_shot", "shared_memory"): _over_from(over_shared_memory.send),
}

IMPLEMENTATIONS = tuple(Implementation(*names) for names in _CALLS)
# By name only: what is measured or run everywhere does not include them, since a CPU interprets them.
SYMMETRIC = tuple(
    Implementation("all_reduce", algorithm, "symmetric_memory") for algorithm in over_symmetric_memory.KERNELS
)
_FIRST = {(op, transport): algorithm for op, algorithm, transport in reversed(_CALLS)}
