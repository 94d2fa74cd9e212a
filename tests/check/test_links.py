"""Lab 01's exercises: the solution is right, and each mistake is named for what it is."""

from __future__ import annotations

import math

import pytest
import torch

from shardlab import Ranks, check, comm


def scattered(mesh, partial):
    return comm.reduce_scatter(partial, mesh["tp"])


def by_hand(mesh, partial):
    tp = mesh["tp"]
    return comm.all_to_all(partial, tp, 0, 0).view(tp.size, -1).sum(0)


def all_reduced(mesh, partial):
    tp = mesh["tp"]
    return comm.all_reduce(partial.clone(), tp).chunk(tp.size)[tp.rank]


def whole_sum(mesh, partial):
    return comm.all_reduce(partial.clone(), mesh["tp"])


def own_slice(mesh, partial):
    tp = mesh["tp"]
    return partial.chunk(tp.size)[tp.rank]


@pytest.mark.parametrize("attempt", [scattered, by_hand])
def test_reduce_scatter_right(ranks: Ranks, attempt) -> None:
    assert check.reduce_scatter(attempt, ranks)


@pytest.mark.parametrize(
    ("attempt", "says"),
    [(all_reduced, "24 B are enough"), (whole_sum, "keeps only slice r"), (own_slice, "add up what arrives")],
)
def test_reduce_scatter_names_the_mistake(ranks: Ranks, attempt, says: str) -> None:
    verdict = check.reduce_scatter(attempt, ranks)
    assert not verdict and says in repr(verdict)


def ring(mesh, local):
    tp = mesh["tp"]
    shards, passing = {tp.rank: local}, local
    for step in range(1, tp.size):
        arriving = torch.empty_like(local)
        comm.exchange({(tp.rank + 1) % tp.size: passing}, {(tp.rank - 1) % tp.size: arriving}, tp)
        shards[(tp.rank - step) % tp.size] = passing = arriving
    return torch.cat([shards[rank] for rank in range(tp.size)])


def ring_unordered(mesh, local):
    tp = mesh["tp"]
    shards, passing = [local], local
    for _ in range(1, tp.size):
        arriving = torch.empty_like(local)
        comm.exchange({(tp.rank + 1) % tp.size: passing}, {(tp.rank - 1) % tp.size: arriving}, tp)
        shards.append(passing := arriving)
    return torch.cat(shards)


def one_step(mesh, local):
    tp = mesh["tp"]
    arriving = torch.empty_like(local)
    comm.exchange({(tp.rank + 1) % tp.size: local}, {(tp.rank - 1) % tp.size: arriving}, tp)
    return torch.cat([local, arriving] if tp.rank == 0 else [arriving, local])


def gathered(mesh, local):
    return comm.all_gather(local, mesh["tp"])


def test_ring_right(ranks: Ranks) -> None:
    assert check.ring_all_gather(ring, ranks)


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (ring_unordered, "in the wrong place"),
        (one_step, "not yet"),
        (gathered, "sends of one shard"),
        (lambda mesh, local: local.nothing, "AttributeError"),
    ],
)
def test_ring_names_the_mistake(ranks: Ranks, attempt, says: str) -> None:
    verdict = check.ring_all_gather(attempt, ranks)
    assert not verdict and says in repr(verdict)


def crossover(T, alpha_s, bandwidth_Bps):
    return math.inf if T == 2 else alpha_s * bandwidth_Bps * (2 * T - 3) / ((T - 1) * (1 - 2 / T))


def test_crossover_right() -> None:
    assert check.crossover_bytes(crossover)


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (lambda T, a, b: 1e6, "it always wins"),
        (lambda T, a, b: math.inf, "set the two times equal"),
        (lambda T, a, b: math.inf if T == 2 else a * b, "1 step"),
        (lambda T, a, b: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_crossover_names_the_mistake(attempt, says: str) -> None:
    verdict = check.crossover_bytes(attempt)
    assert not verdict and says in repr(verdict)
