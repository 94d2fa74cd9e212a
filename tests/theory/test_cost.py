"""The cost of one collective: the form, its square root derived, and a model that says what it knows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab.theory import collectives
from shardlab.theory.collectives import ALGORITHMS
from shardlab.theory.cost import (
    Choice,
    Cost,
    CostModel,
    Key,
    TimeOf,
    critical_path,
    crossover_bytes,
    of_link,
    pipelined_s,
)
from shardlab.theory.hardware import Link

FUZZ = settings(max_examples=100, derandomize=True, deadline=None)
EVERY = [(op, algorithm) for op, algorithms in ALGORITHMS.items() for algorithm in algorithms]
constants = st.floats(0, 1e-3)
costs = st.builds(Cost, constants, st.floats(1e6, 1e12), constants, constants)
LINK = Link(2e-6, 450e9)


def model(*costs: tuple[str, str, str, int, Cost]) -> CostModel:
    return CostModel({(op, algorithm, transport, n): cost for op, algorithm, transport, n, cost in costs})


def test_the_form() -> None:
    cost = Cost(alpha_s=2.0, bandwidth_Bps=4.0, sqrt_s=0.5, base_s=10.0)
    assert cost.time_s(3, 16.0) == 10 + 3 * 2 + 16 / 4 + 0.5 * 4
    assert Cost(1.0, math.inf).time_s(2, 1e12) == 2.0


@FUZZ
@given(cost=costs, hops=st.integers(0, 64), small=st.floats(0, 2**40), large=st.floats(0, 2**40))
def test_never_less_for_more_bytes_and_nothing_for_no_hops(cost: Cost, hops: int, small: float, large: float) -> None:
    small, large = sorted((small, large))
    assert cost.time_s(0, large) == 0
    assert 0 <= cost.time_s(hops, small) <= cost.time_s(hops, large)
    assert cost.time_s(hops + 1, large) >= cost.time_s(hops, large)


@pytest.mark.parametrize(("op", "algorithm"), EVERY)
@FUZZ
@given(cost=costs, n=st.integers(2, 32), small=st.integers(0, 2**36), large=st.integers(0, 2**36))
def test_a_model_is_monotone_in_bytes_and_zero_for_one_rank(
    op: str, algorithm: str, cost: Cost, n: int, small: int, large: int
) -> None:
    known = model((op, algorithm, "backend", n, cost))
    small, large = sorted((small, large))
    assert known.time_s(op, num_bytes=large, world_size=1) == 0
    assert 0 <= known.time_s(op, num_bytes=small, world_size=n) <= known.time_s(op, num_bytes=large, world_size=n)


@pytest.mark.parametrize(("op", "algorithm"), EVERY)
@FUZZ
@given(n=st.integers(1, 24), size=st.integers(0, 2**36))
def test_without_root_and_base_it_is_the_line_of_theory(op: str, algorithm: str, n: int, size: int) -> None:
    line = Cost(LINK.alpha_s, LINK.bandwidth_Bps)
    wanted = collectives.time_s(op, num_bytes=size, world_size=n, link=LINK, algorithm=algorithm)
    path = critical_path(op, num_bytes=size, world_size=n, algorithm=algorithm)
    assert line.time_s(*path) == pytest.approx(wanted, rel=1e-12)
    assert path[0] == collectives.steps(op, world_size=n, algorithm=algorithm)
    assert of_link(LINK)(op, num_bytes=size, world_size=n, algorithm=algorithm) == wanted


@FUZZ
@given(hops=st.integers(2, 30), alpha_s=st.floats(1e-7, 1e-4), size=st.floats(1e4, 1e10))
def test_the_square_root_is_what_the_best_chunks_cost(hops: int, alpha_s: float, size: float) -> None:
    bandwidth_Bps = 400e9
    closed = (hops - 1) * alpha_s + size / bandwidth_Bps + 2 * math.sqrt((hops - 1) * alpha_s * size / bandwidth_Bps)
    best = math.sqrt((hops - 1) * size / (alpha_s * bandwidth_Bps))

    def chunked(num_chunks: int) -> float:
        return (num_chunks + hops - 1) * (alpha_s + size / num_chunks / bandwidth_Bps)

    around = range(max(1, int(best) - 3), int(best) + 4)
    least = min(chunked(count) for count in around)
    found = pipelined_s(size, hops=hops, alpha_s=alpha_s, bandwidth_Bps=bandwidth_Bps)
    if best >= 1:
        assert found == pytest.approx(closed, rel=1e-9)
        assert found <= least * (1 + 1e-12)  # no whole number of chunks does better
        assert least == pytest.approx(found, rel=0.13)  # and the best whole number comes near
        # The three terms are a Cost: hops - 1 latencies, S/b, and the root.
        cost = Cost(alpha_s, bandwidth_Bps, 2 * math.sqrt((hops - 1) * alpha_s / bandwidth_Bps))
        assert cost.time_s(hops - 1, size) == pytest.approx(closed, rel=1e-9)
    for count in (1, 2, 7):
        given_s = pipelined_s(size, hops=hops, alpha_s=alpha_s, bandwidth_Bps=bandwidth_Bps, num_chunks=count)
        assert given_s == pytest.approx(chunked(count))
        assert found <= given_s * (1 + 1e-12)


def test_chunks_run_link_by_link() -> None:
    """Three links, four chunks, one at a time on each link: the formula is the simulation's last arrival."""
    turn_s, hops, chunks = 1.5, 3, 4
    arrived = [0.0] * chunks
    for _ in range(hops):
        free = 0.0
        for chunk in range(chunks):
            free = max(free, arrived[chunk]) + turn_s
            arrived[chunk] = free
    assert pipelined_s(4.0, hops=hops, alpha_s=0.5, bandwidth_Bps=1.0, num_chunks=chunks) == arrived[-1]
    assert pipelined_s(4.0, hops=1, alpha_s=0.5, bandwidth_Bps=2.0) == 0.5 + 2.0
    assert pipelined_s(4.0, hops=9, alpha_s=0.0, bandwidth_Bps=2.0) == 2.0


RING = ("all_reduce", "ring", "send_recv", 4, Cost(10e-6, 1e9))
ONE = ("all_reduce", "one_shot", "shared_memory", 4, Cost(10e-6, 1e9))
BACKEND = ("all_reduce", "ring", "backend", 4, Cost(20e-6, 2e9))


def test_best_is_the_cheapest_and_time_s_what_it_costs() -> None:
    known = model(RING, ONE, BACKEND)
    assert known.best("all_reduce", 1_000, 4) == Choice("all_reduce", "one_shot", "shared_memory")
    assert known.best("all_reduce", 10**9, 4) == Choice("all_reduce", "ring", "backend")
    for size in (0, 1_000, 10**5, 10**9):
        each = [
            known.time_s("all_reduce", num_bytes=size, world_size=4, algorithm=algorithm, transport=transport)
            for _, algorithm, transport, _, _ in (RING, ONE, BACKEND)
        ]
        assert known.time_s("all_reduce", num_bytes=size, world_size=4) == min(each)
        rings = known.time_s("all_reduce", num_bytes=size, world_size=4, algorithm="ring")
        assert rings == min(each[0], each[2])
    as_any_other: TimeOf = known.time_s
    assert as_any_other("all_reduce", num_bytes=8, world_size=4) == known.time_s(
        "all_reduce", num_bytes=8, world_size=4
    )
    twins = model(RING, ("all_reduce", "ring", "shared_memory", 4, RING[4]))
    assert twins.best("all_reduce", 8, 4).transport == "send_recv"  # of equals the first


def test_crossover_is_where_the_two_lines_meet() -> None:
    known = model(RING, ONE)
    # 6 * 10 us + 1.5 S / 1e9 = 10 us + 3 S / 1e9
    met = known.crossover_bytes("all_reduce", ("one_shot", "shared_memory"), ("ring", "send_recv"), 4)
    assert met == pytest.approx(50e-6 * 1e9 / 1.5, rel=1e-9)
    assert met == known.crossover_bytes("all_reduce", ("ring", "send_recv"), ("one_shot", "shared_memory"), 4)
    dearer = model(RING, ("all_reduce", "ring", "backend", 4, Cost(11e-6, 0.9e9)))
    assert dearer.crossover_bytes("all_reduce", ("ring", "send_recv"), ("ring", "backend"), 4) is None


@FUZZ
@given(gap=st.floats(1e-7, 1e-3), slope=st.floats(1e-12, 1e-9), root=st.floats(0, 1e-7))
def test_crossover_solves_the_quadratic(gap: float, slope: float, root: float) -> None:
    # gap = slope * S + root * sqrt(S), a quadratic in sqrt(S)
    x = 2 * gap / (root + math.sqrt(root * root + 4 * slope * gap))
    found = crossover_bytes(lambda size: gap, lambda size: slope * size + root * math.sqrt(size))
    assert found == (pytest.approx(x * x, rel=1e-9) if 1 < x * x < 2**40 else None)


def test_crossover_of_any_two_models() -> None:
    fast: TimeOf = of_link(Link(50e-6, 50e9))
    near: TimeOf = of_link(Link(1e-6, 10e9))

    def seconds(of: TimeOf, size: float) -> float:
        return of("send", num_bytes=size, world_size=2)

    found = crossover_bytes(lambda size: seconds(near, size), lambda size: seconds(fast, size))
    assert found == pytest.approx(49e-6 / (1 / 10e9 - 1 / 50e9), rel=1e-9)
    assert crossover_bytes(lambda size: 1.0, lambda size: 1.0) is None


def test_a_model_is_a_mapping() -> None:
    known = model(RING, BACKEND)
    assert list(known) == [Key(*RING[:4]), Key(*BACKEND[:4])]
    assert known[RING[:4]] == RING[4]
    assert len(known) == 2
    assert Key("all_reduce", "ring", "send_recv", 5) not in known


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Cost(-1e-9, 1.0), "alpha_s=-1e-09"),
        (lambda: Cost(0, 0), "bandwidth_Bps=0"),
        (lambda: Cost(0, 1, math.nan), "sqrt_s=nan"),
        (lambda: Cost(0, 1, 0, math.inf), "base_s=inf"),
        (lambda: Cost(0, 1).time_s(-1, 0), "hops=-1"),
        (lambda: Cost(0, 1).time_s(1, math.nan), "wire_bytes=nan"),
        (
            lambda: model(RING).time_s("all_reduce", num_bytes=8, world_size=3),
            "all_reduce/any/any/3 was not measured; known .*: all_reduce/ring/send_recv/4",
        ),
        (lambda: model().best("send", 8, 2), "known .*: nothing"),
        (lambda: model(("all_reduce", "star", "backend", 4, RING[4])), "algorithm='star' for all_reduce"),
        (lambda: crossover_bytes(abs, abs, low=0), "low=0"),
        (lambda: pipelined_s(1, hops=0, alpha_s=0, bandwidth_Bps=1), "hops=0"),
        (lambda: pipelined_s(1, hops=1, alpha_s=0, bandwidth_Bps=1, num_chunks=0), "num_chunks=0"),
    ],
)
def test_mistakes_name_the_value(call, said: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=said):
        call()
