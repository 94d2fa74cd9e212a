"""Who sends how much to whom, for tensors in parts of any size: what collectives.traffic_matrix is made of.

`parts[j]` is the bytes of part j, the one that rank j owns (reduce_scatter), brings (all_gather) or receives
(all_to_all); `size` is S, the sum of the parts. Each function adds its messages to matrix[sender][receiver].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Matrix = list[list[float]]


@dataclass(frozen=True)
class Route:
    """Who sent how much to whom, for a transfer whose op alone does not say.

    algorithm: what carried it (collectives.ALGORITHMS); None is the op's first. peer: the rank of the axis that a send
    went to, or that a broadcast came from. splits: the bytes that this rank had for each rank of the axis, itself
    included, where they are uneven. wire: False where no socket sees it (memory that ranks share, a GPU's links).
    """

    algorithm: str | None = None
    peer: int | None = None
    splits: tuple[int, ...] | None = None
    wire: bool = True


NO_WIRE = Route(wire=False)


def fill(matrix: Matrix, op: str, algorithm: str, size: float, parts: Sequence[float], way: int, src: int) -> None:
    """Add every message of one collective. Both names are known to be good (collectives checks them)."""
    match op, algorithm:
        case ("all_reduce", "ring") | ("reduce_scatter", "all_reduce"):
            ring_reduce_scatter(matrix, parts, way)
            ring_all_gather(matrix, parts, way)
        case "reduce_scatter", "ring":
            ring_reduce_scatter(matrix, parts, way)
        case "all_gather", "ring":
            ring_all_gather(matrix, parts, way)
        case "all_reduce", "recursive_doubling":
            recursive_doubling(matrix, size)
        case "all_reduce", "binomial_tree":
            binomial_reduce(matrix, size, 0)
            binomial_broadcast(matrix, size, 0)
        case "all_reduce", "one_shot":
            one_shot_everything(matrix, size)
        case "all_reduce", "two_shot":
            one_shot_scatter(matrix, parts)
            one_shot_gather(matrix, parts)
        case "all_gather", "one_shot":
            one_shot_gather(matrix, parts)
        case "broadcast", "binomial_tree":
            binomial_broadcast(matrix, size, src)
        case "broadcast", "one_shot":
            one_shot_broadcast(matrix, size, src)
        case _:
            assert (op, algorithm) in (("reduce_scatter", "one_shot"), ("all_to_all", "one_shot")), (op, algorithm)
            one_shot_scatter(matrix, parts)


def ring_reduce_scatter(matrix: Matrix, parts: Sequence[float], way: int) -> None:
    """Every part but its own passes through a rank. `way` is +1 where a rank sends to its successor, else -1."""
    n = len(matrix)
    for rank in range(n):
        matrix[rank][(rank + way) % n] += sum(part for owner, part in enumerate(parts) if owner != rank)


def ring_all_gather(matrix: Matrix, parts: Sequence[float], way: int) -> None:
    """Every part passes through a rank but the one that its neighbour brought itself."""
    n = len(matrix)
    for rank in range(n):
        to = (rank + way) % n
        matrix[rank][to] += sum(part for owner, part in enumerate(parts) if owner != to)


def one_shot_scatter(matrix: Matrix, parts: Sequence[float]) -> None:
    """Part j goes to rank j, from everyone: reduce_scatter and all_to_all."""
    _to_all_others(matrix, lambda sender, receiver: parts[receiver])


def one_shot_gather(matrix: Matrix, parts: Sequence[float]) -> None:
    """Part i goes from rank i to everyone: all_gather."""
    _to_all_others(matrix, lambda sender, receiver: parts[sender])


def one_shot_everything(matrix: Matrix, size: float) -> None:
    """The whole tensor goes from everyone to everyone: all_reduce."""
    _to_all_others(matrix, lambda sender, receiver: size)


def recursive_doubling(matrix: Matrix, size: float) -> None:
    """The whole tensor, between ranks at distance 1, 2, 4, ...; ranks beyond the power of two go through a partner."""
    n = len(matrix)
    core = 1 << (n.bit_length() - 1)
    for extra in range(core, n):
        matrix[extra][extra - core] += size
        matrix[extra - core][extra] += size
    for step in range(n.bit_length() - 1):
        for rank in range(core):
            matrix[rank][rank ^ (1 << step)] += size


def binomial_broadcast(matrix: Matrix, size: float, src: int) -> None:
    """The whole tensor down the tree: in round k the first 2^k ranks, counted from src, send 2^k further on."""
    for parent, child in _tree(len(matrix), src):
        matrix[parent][child] += size


def binomial_reduce(matrix: Matrix, size: float, dst: int) -> None:
    """The same tree, upwards."""
    for parent, child in _tree(len(matrix), dst):
        matrix[child][parent] += size


def one_shot_broadcast(matrix: Matrix, size: float, src: int) -> None:
    """The whole tensor from src to each of the others."""
    for rank in range(len(matrix)):
        if rank != src:
            matrix[src][rank] += size


def _tree(n: int, root: int) -> list[tuple[int, int]]:
    """(parent, child) of each edge. A rank's parent: its distance from the root, less the distance's top bit."""
    positions = range(1, n)
    return [((root + at - (1 << (at.bit_length() - 1))) % n, (root + at) % n) for at in positions]


def _to_all_others(matrix: Matrix, num_bytes: Callable[[int, int], float]) -> None:
    n = len(matrix)
    for sender in range(n):
        for receiver in range(n):
            if receiver != sender:
                matrix[sender][receiver] += num_bytes(sender, receiver)
