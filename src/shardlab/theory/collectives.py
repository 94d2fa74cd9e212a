"""Steps, bytes on the wire and time of each collective, algorithm by algorithm.

S = num_bytes is what nccl-tests calls the size, n = world_size. all_reduce, broadcast and send: the tensor.
all_gather: the whole gathered result. reduce_scatter and all_to_all: the whole input of one rank.
Sources: Thakur, Rabenseifner, Gropp 2005 (ring, recursive doubling, binomial tree); NVIDIA/nccl-tests
doc/PERFORMANCE.md (algbw, busbw); pytorch/gloo allreduce.cc, allgather.cc, broadcast.cc (who sends to whom).
"""

from __future__ import annotations

from typing import Literal

from shardlab.theory import traffic
from shardlab.theory.hardware import Link
from shardlab.theory.split import even_split

Direction = Literal["predecessor", "successor"]

# op -> algorithms, the default first. The defaults are what gloo runs.
#   ring                each rank talks to one neighbour, S/n at a time
#   recursive_doubling  pairs at distance 1, 2, 4, ... exchange everything
#   one_shot            every rank sends to all its peers at once; they reduce or gather by themselves
#   two_shot            one_shot reduce_scatter, then one_shot all_gather
#   binomial_tree       the ranks that hold the tensor double with every step; all_reduce: up a tree, then down again
#   all_reduce          a whole ring all_reduce, then a slice: what gloo's own reduce_scatter is
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "all_reduce": ("ring", "recursive_doubling", "one_shot", "two_shot", "binomial_tree"),
    "all_gather": ("ring", "one_shot"),
    "reduce_scatter": ("ring", "one_shot", "all_reduce"),
    "all_to_all": ("one_shot",),
    "broadcast": ("binomial_tree", "one_shot"),
    "send": ("one_shot",),
}

# The neighbour that gloo's rings send to (FACTS: seen on the wire, and in the sources named above).
GLOO_RING_DIRECTION: dict[str, Direction] = {
    "all_reduce": "predecessor",
    "all_gather": "successor",
    "reduce_scatter": "predecessor",
}


def steps(op: str, *, world_size: int, algorithm: str | None = None) -> int:
    """Rounds that must follow one another: each costs one latency. 0 for one rank."""
    algorithm = _check(op, world_size, algorithm)
    n = world_size
    if n == 1:
        return 0
    match algorithm:
        case "ring":
            return 2 * (n - 1) if op == "all_reduce" else n - 1
        case "recursive_doubling":
            # Ranks beyond the largest power of two hand their tensor in first and get the sum back last.
            return _log2_floor(n) + (0 if _is_power_of_two(n) else 2)
        case "binomial_tree":
            return (n - 1).bit_length() * (2 if op == "all_reduce" else 1)
        case "two_shot":
            return 2
        case "all_reduce":
            return 2 * (n - 1)
        case _:
            return 1


def wire_bytes(
    op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None, item_bytes: int | None = None
) -> float:
    """Bytes that one rank sends; where ranks differ (trees, recursive doubling off powers of two), the busiest.

    Exact while n divides S; elsewhere backends pad by less than one element a rank and step. With `item_bytes`
    (traffic_matrix says what that is) exact for shardlab.algorithms at any length. 0 for one rank.
    Raises ValueError for an unknown op or algorithm, world_size < 1 or num_bytes < 0.
    """
    algorithm = _check(op, world_size, algorithm, num_bytes)
    n, size = world_size, num_bytes
    if n == 1:
        return 0.0
    if item_bytes is not None:
        return max(sum(row) for row in traffic_matrix(op, size, n, algorithm, item_bytes=item_bytes))
    match algorithm:
        case "recursive_doubling":
            rounds = _log2_floor(n) + (0 if _is_power_of_two(n) else 1)
            return float(rounds * size)
        case "binomial_tree":
            return float((n - 1).bit_length() * size)
        case "two_shot":
            return 2 * (n - 1) * size / n
        case "one_shot" if op in ("all_reduce", "broadcast"):
            return float((n - 1) * size)
        case "one_shot" if op == "send":
            return float(size)
        case "ring" | "all_reduce" if "all_reduce" in (op, algorithm):
            return 2 * (n - 1) * size / n
        case _:
            return (n - 1) * size / n


def traffic_matrix(
    op: str,
    num_bytes: float,
    world_size: int,
    algorithm: str | None = None,
    *,
    direction: Direction | None = None,
    src: int = 0,
    dst: int | None = None,
    item_bytes: int | None = None,
) -> list[list[float]]:
    """matrix[i][j]: the bytes that rank i sends to rank j.

    direction: which neighbour a ring sends to. None is gloo's way, and ours: all_reduce and reduce_scatter to the
    predecessor (rank - 1), all_gather to the successor (rank + 1). src is the sender of broadcast and send;
    dst (default: the rank after src) the receiver of send.
    item_bytes: bytes of what is never cut in two (an element of all_reduce; a row of dim 0 elsewhere). None is the
    closed form, every part S/n. Given, the parts are those of split.even_split: what shardlab.algorithms sends, to
    the byte, whether or not n divides S. ValueError where S is no whole number of items.
    """
    algorithm = _check(op, world_size, algorithm, num_bytes)
    n = world_size
    if not 0 <= src < n:
        raise ValueError(f"src={src} is not a rank of world_size={n}; allowed: 0..{n - 1}")
    if direction not in (None, "predecessor", "successor"):
        raise ValueError(f"direction={direction!r}; allowed: 'predecessor', 'successor'")
    matrix = [[0.0] * n for _ in range(n)]
    parts = _parts(num_bytes, n, item_bytes)
    if n == 1:
        return matrix
    if op == "send":
        to = (src + 1) % n if dst is None else dst
        if not 0 <= to < n or to == src:
            raise ValueError(f"dst={to}: a rank other than src={src}, 0..{n - 1}")
        matrix[src][to] += num_bytes
        return matrix
    way = 1 if (direction or GLOO_RING_DIRECTION.get(op)) == "successor" else -1
    traffic.fill(matrix, op, algorithm, num_bytes, parts, way, src)
    return matrix


def shared_memory_bytes(
    op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None, item_bytes: int | None = None
) -> float:
    """Bytes that the busiest rank moves through shared memory: written into its part, and read from its peers'.

    A rank writes only what a peer will read, and reads what it needs of each peer's part. Nothing is sent, so nothing
    is counted twice; reading one's own part is free. algorithm: "one_shot" (the default here) or "two_shot".
    item_bytes as in traffic_matrix. 0 for one rank. Raises ValueError for an algorithm that shared memory has not.
    """
    algorithm = _check(op, world_size, algorithm or "one_shot", num_bytes)
    if algorithm not in ("one_shot", "two_shot"):
        raise ValueError(f"algorithm={algorithm!r} over shared memory; allowed: one_shot, two_shot")
    if world_size == 1:
        return 0.0
    n, size, largest = world_size, num_bytes, max(_parts(num_bytes, world_size, item_bytes))
    if op in ("broadcast", "send", "all_gather"):
        return float(size)
    if (op, algorithm) == ("all_reduce", "one_shot"):
        return float(n * size)
    scattered = size + (n - 2) * largest  # all but its own part in, and its own part of the n-1 peers out
    return float(scattered + size if algorithm == "two_shot" else scattered)


def time_s(op: str, *, num_bytes: float, world_size: int, link: Link, algorithm: str | None = None) -> float:
    """alpha-beta time in seconds: steps * alpha + bytes on the critical path / bandwidth per direction.

    Assumes that a rank has one port of `link.bandwidth_Bps` each way and that the switch does not block, so a
    one_shot's sends share the sender's port. Hockney 1994. 0 for one rank.
    """
    algorithm = _check(op, world_size, algorithm, num_bytes)
    path_bytes = wire_bytes(op, num_bytes=num_bytes, world_size=world_size, algorithm=algorithm)
    if algorithm in ("recursive_doubling", "binomial_tree"):  # every step waits for the whole tensor of the last
        path_bytes = steps(op, world_size=world_size, algorithm=algorithm) * num_bytes
    latency_s = steps(op, world_size=world_size, algorithm=algorithm) * link.alpha_s
    return latency_s + path_bytes / link.bandwidth_Bps


def busbw_factor(op: str, world_size: int) -> float:
    """busbw = algbw * factor, as nccl-tests define it: what a perfect ring would need of each port."""
    _check(op, world_size, None)
    n = world_size
    if op == "all_reduce":
        return 2 * (n - 1) / n
    if op in ("all_gather", "reduce_scatter", "all_to_all"):
        return (n - 1) / n
    return 1.0


def algbw_Bps(num_bytes: float, seconds: float) -> float:
    """Algorithm bandwidth in bytes/s: S / t. Raises ValueError for a time that is not positive."""
    if not seconds > 0:
        raise ValueError(f"seconds={seconds}: a time above 0 is needed")
    return num_bytes / seconds


def busbw_Bps(op: str, *, num_bytes: float, world_size: int, seconds: float) -> float:
    """Bus bandwidth in bytes/s: comparable with the link's bandwidth per direction, whatever n is."""
    return algbw_Bps(num_bytes, seconds) * busbw_factor(op, world_size)


def _check(op: str, world_size: int, algorithm: str | None, num_bytes: float = 0) -> str:
    """The algorithm to use, or ValueError naming the value and what is allowed."""
    if op not in ALGORITHMS:
        raise ValueError(f"op={op!r}; allowed: {', '.join(ALGORITHMS)}")
    if isinstance(world_size, bool) or not isinstance(world_size, int) or world_size < 1:
        raise ValueError(f"world_size={world_size!r}; allowed: an integer of 1 or more")
    if not num_bytes >= 0:
        raise ValueError(f"num_bytes={num_bytes}; allowed: 0 or more")
    if algorithm is None:
        return ALGORITHMS[op][0]
    if algorithm not in ALGORITHMS[op]:
        raise ValueError(f"algorithm={algorithm!r} for {op}; allowed: {', '.join(ALGORITHMS[op])}")
    return algorithm


def _log2_floor(n: int) -> int:
    return n.bit_length() - 1


def _is_power_of_two(n: int) -> bool:
    return n & (n - 1) == 0


def _parts(num_bytes: float, n: int, item_bytes: int | None) -> list[float]:
    """The bytes of each of the n parts."""
    if item_bytes is None:
        return [num_bytes / n] * n
    if item_bytes < 1 or num_bytes % item_bytes:
        raise ValueError(f"item_bytes={item_bytes}: a whole number of items of 1 byte or more is {num_bytes} bytes")
    return [float(len(part) * item_bytes) for part in even_split(int(num_bytes // item_bytes), n)]
