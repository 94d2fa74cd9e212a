"""A network in a list: collectives run message by message, so that a formula meets a count.

Every rank holds some integers, cut into n chunks. A message is (sender, receiver, indices, what to do with them);
a round is a list of messages that travel at once. The wire counts one byte an integer.
"""

from __future__ import annotations

from collections.abc import Callable

from shardlab.theory.split import even_split

Message = tuple[int, int, list[int], Callable[[int, int], int]]


def add(here: int, there: int) -> int:
    return here + there


def take(here: int, there: int) -> int:
    return there


class Network:
    """values[rank][index], the bytes sent from rank to rank, and the rounds so far."""

    def __init__(self, values: list[list[int]]) -> None:
        self.values = values
        self.size = len(values)
        self.sent = [[0] * self.size for _ in range(self.size)]
        self.rounds = 0

    def round(self, messages: list[Message]) -> None:
        """Send everything, then apply everything: nobody reads what arrives in this round."""
        if not messages:
            return
        parcels = [[self.values[source][index] for index in indices] for source, _, indices, _ in messages]
        for (source, target, indices, use), parcel in zip(messages, parcels, strict=True):
            self.sent[source][target] += len(parcel)
            for index, value in zip(indices, parcel, strict=True):
                self.values[target][index] = use(self.values[target][index], value)
        self.rounds += 1

    def chunk(self, number: int) -> list[int]:
        return list(even_split(len(self.values[0]), self.size)[number % self.size])

    @property
    def everything(self) -> list[int]:
        return list(range(len(self.values[0])))


def reduce_scatter_ring(net: Network, way: int = 1) -> None:
    """Rank r ends up with the sum of chunk r. `way` is +1 to send to the successor, -1 to the predecessor."""
    for step in range(net.size - 1):
        net.round(
            [(rank, (rank + way) % net.size, net.chunk(rank - way * (step + 1)), add) for rank in range(net.size)]
        )


def all_gather_ring(net: Network, way: int = 1) -> None:
    for step in range(net.size - 1):
        net.round([(rank, (rank + way) % net.size, net.chunk(rank - way * step), take) for rank in range(net.size)])


def all_reduce_ring(net: Network, way: int = 1) -> None:
    reduce_scatter_ring(net, way)
    all_gather_ring(net, way)


def all_reduce_recursive_doubling(net: Network) -> None:
    core = 1 << (net.size.bit_length() - 1)
    extra = range(core, net.size)
    net.round([(rank, rank - core, net.everything, add) for rank in extra])
    distance = 1
    while distance < core:
        net.round([(rank, rank ^ distance, net.everything, add) for rank in range(core)])
        distance *= 2
    net.round([(rank - core, rank, net.everything, take) for rank in extra])


def all_reduce_one_shot(net: Network) -> None:
    net.round([(a, b, net.everything, add) for a in range(net.size) for b in range(net.size) if a != b])


def reduce_scatter_one_shot(net: Network) -> None:
    net.round([(a, b, net.chunk(b), add) for a in range(net.size) for b in range(net.size) if a != b])


def all_gather_one_shot(net: Network) -> None:
    net.round([(a, b, net.chunk(a), take) for a in range(net.size) for b in range(net.size) if a != b])


def all_reduce_two_shot(net: Network) -> None:
    reduce_scatter_one_shot(net)
    all_gather_one_shot(net)


def broadcast_binomial_tree(net: Network, src: int = 0) -> None:
    holders = 1
    while holders < net.size:
        net.round(
            [
                ((src + one) % net.size, (src + one + holders) % net.size, net.everything, take)
                for one in range(min(holders, net.size - holders))
            ]
        )
        holders *= 2


def broadcast_one_shot(net: Network, src: int = 0) -> None:
    net.round([(src, rank, net.everything, take) for rank in range(net.size) if rank != src])


def reduce_binomial_tree(net: Network) -> None:
    """Everything to rank 0: the broadcast's messages backwards."""
    reach = 1 << (net.size - 1).bit_length() >> 1
    while reach:
        net.round(
            [(one + reach, one, net.everything, add) for one in range(reach) if one + reach < min(2 * reach, net.size)]
        )
        reach //= 2


def all_reduce_binomial_tree(net: Network) -> None:
    reduce_binomial_tree(net)
    broadcast_binomial_tree(net)
