"""theory.collectives: against collectives that are run message by message, and by its properties (P8)."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab.theory import collectives
from shardlab.theory.collectives import ALGORITHMS, steps, time_s, traffic_matrix, wire_bytes
from shardlab.theory.hardware import Link
from tests.theory import simulator

EVERY = [(op, algorithm) for op, known in ALGORITHMS.items() for algorithm in known]
LINK = Link(alpha_s=1e-6, bandwidth_Bps=1e9)
ranks = st.integers(1, 64)
sizes = st.integers(0, 2**40)


def network(size: int, units: int = 3) -> simulator.Network:
    return simulator.Network([[1000 * rank + index for index in range(size * units)] for rank in range(size)])


@pytest.mark.parametrize("n", range(1, 18))
@pytest.mark.parametrize(
    ("algorithm", "run"),
    [
        ("ring", simulator.all_reduce_ring),
        ("recursive_doubling", simulator.all_reduce_recursive_doubling),
        ("one_shot", simulator.all_reduce_one_shot),
        ("two_shot", simulator.all_reduce_two_shot),
        ("binomial_tree", simulator.all_reduce_binomial_tree),
    ],
)
def test_all_reduce_run_message_by_message(n: int, algorithm: str, run) -> None:  # noqa: ANN001
    net = network(n)
    size = len(net.values[0])
    total = [sum(column) for column in zip(*net.values, strict=True)]
    run(net)
    assert net.values == [total] * n
    assert net.rounds == steps("all_reduce", world_size=n, algorithm=algorithm)
    assert max(sum(row) for row in net.sent) == wire_bytes(
        "all_reduce", num_bytes=size, world_size=n, algorithm=algorithm
    )
    assert net.sent == traffic_matrix("all_reduce", size, n, algorithm, direction="successor")


@pytest.mark.parametrize("n", range(1, 12))
@pytest.mark.parametrize(("direction", "way"), [("predecessor", -1), ("successor", 1)])
def test_the_ring_runs_both_ways(n: int, direction: Literal["predecessor", "successor"], way: int) -> None:
    net = network(n)
    size = len(net.values[0])
    total = [sum(column) for column in zip(*net.values, strict=True)]
    simulator.all_reduce_ring(net, way)
    assert net.values == [total] * n
    assert net.sent == traffic_matrix("all_reduce", size, n, "ring", direction=direction)


@pytest.mark.parametrize("n", range(1, 12))
@pytest.mark.parametrize(
    ("op", "algorithm", "run"),
    [
        ("reduce_scatter", "ring", simulator.reduce_scatter_ring),
        ("reduce_scatter", "one_shot", simulator.reduce_scatter_one_shot),
        ("all_gather", "ring", simulator.all_gather_ring),
        ("all_gather", "one_shot", simulator.all_gather_one_shot),
    ],
)
def test_the_halves_run_message_by_message(n: int, op: str, algorithm: str, run) -> None:  # noqa: ANN001
    net = network(n)
    size = len(net.values[0])
    before = [list(row) for row in net.values]
    run(net)
    for rank in range(n):
        for owner in range(n):
            for index in net.chunk(owner):
                if op == "all_gather":
                    assert net.values[rank][index] == before[owner][index]
                elif owner == rank:
                    assert net.values[rank][index] == sum(row[index] for row in before)
    assert net.rounds == steps(op, world_size=n, algorithm=algorithm)
    assert net.sent == traffic_matrix(op, size, n, algorithm, direction="successor")


@pytest.mark.parametrize("n", range(1, 18))
@pytest.mark.parametrize("src", [0, 1, 5])
@pytest.mark.parametrize(
    ("algorithm", "run"),
    [("binomial_tree", simulator.broadcast_binomial_tree), ("one_shot", simulator.broadcast_one_shot)],
)
def test_broadcast_run_message_by_message(n: int, src: int, algorithm: str, run) -> None:  # noqa: ANN001
    src %= n
    net = network(n)
    wanted = list(net.values[src])
    run(net, src)
    assert net.values == [wanted] * n
    assert net.rounds == steps("broadcast", world_size=n, algorithm=algorithm)
    assert net.sent == traffic_matrix("broadcast", len(wanted), n, algorithm, src=src)
    assert max(sum(row) for row in net.sent) == wire_bytes(
        "broadcast", num_bytes=len(wanted), world_size=n, algorithm=algorithm
    )


@pytest.mark.parametrize(("op", "algorithm"), EVERY)
@given(n=ranks, small=sizes, large=sizes)
def test_nothing_for_one_rank_and_never_less_for_more_bytes(
    op: str, algorithm: str, n: int, small: int, large: int
) -> None:
    small, large = sorted((small, large))
    for of in (
        lambda size, n: wire_bytes(op, num_bytes=size, world_size=n, algorithm=algorithm),
        lambda size, n: time_s(op, num_bytes=size, world_size=n, link=LINK, algorithm=algorithm),
    ):
        assert of(large, 1) == 0
        assert 0 <= of(small, n) <= of(large, n)
        if op != "send" and n > 2:
            assert wire_bytes(op, num_bytes=large, world_size=n, algorithm=algorithm) >= wire_bytes(
                op, num_bytes=large, world_size=n - 1, algorithm=algorithm
            ) * (1 - 1e-12)


@pytest.mark.parametrize(("op", "algorithm"), EVERY)
@given(n=st.integers(2, 24), units=st.integers(0, 2**20))
def test_the_matrix_adds_up_to_what_a_rank_sends(op: str, algorithm: str, n: int, units: int) -> None:
    size = n * units
    matrix = traffic_matrix(op, size, n, algorithm)
    sent = [sum(row) for row in matrix]
    assert max(sent) == pytest.approx(wire_bytes(op, num_bytes=size, world_size=n, algorithm=algorithm), rel=1e-12)
    assert all(matrix[rank][rank] == 0 for rank in range(n))
    power_of_two = n & (n - 1) == 0
    alike = algorithm != "binomial_tree" and (algorithm != "recursive_doubling" or power_of_two)
    if op not in ("broadcast", "send") and alike:
        received = [sum(column) for column in zip(*matrix, strict=True)]
        assert sent == pytest.approx([sent[0]] * n, rel=1e-12)  # the ranks are alike
        assert received == pytest.approx(sent, rel=1e-12)


def test_every_pair_is_alike_in_all_to_all() -> None:
    matrix = traffic_matrix("all_to_all", 4 * 2**20, 4)
    assert {matrix[i][j] for i in range(4) for j in range(4) if i != j} == {2**20}


def test_what_gloo_was_seen_to_do_at_four_ranks() -> None:
    size = 4 * 2**20
    rings = traffic_matrix("all_reduce", size, 4)
    assert all(rings[rank][(rank - 1) % 4] == 1.5 * size for rank in range(4))
    gather = traffic_matrix("all_gather", 4 * size, 4)
    assert all(gather[rank][(rank + 1) % 4] == 3.0 * size for rank in range(4))
    tree = traffic_matrix("broadcast", size, 4)
    assert [sum(row) for row in tree] == [2 * size, size, 0, 0]
    assert traffic_matrix("send", 8, 4) == [[0, 8, 0, 0], [0] * 4, [0] * 4, [0] * 4]
    assert traffic_matrix("send", 8, 4, src=2, dst=0)[2] == [8, 0, 0, 0]


UNEVEN = {
    ("all_reduce", "ring"): simulator.all_reduce_ring,
    ("all_reduce", "recursive_doubling"): simulator.all_reduce_recursive_doubling,
    ("all_reduce", "one_shot"): simulator.all_reduce_one_shot,
    ("all_reduce", "two_shot"): simulator.all_reduce_two_shot,
    ("all_reduce", "binomial_tree"): simulator.all_reduce_binomial_tree,
    ("reduce_scatter", "ring"): simulator.reduce_scatter_ring,
    ("reduce_scatter", "all_reduce"): simulator.all_reduce_ring,
    ("reduce_scatter", "one_shot"): simulator.reduce_scatter_one_shot,
    ("all_gather", "ring"): simulator.all_gather_ring,
    ("all_gather", "one_shot"): simulator.all_gather_one_shot,
}


@pytest.mark.parametrize("names", UNEVEN, ids="-".join)
@given(n=st.integers(1, 9), length=st.integers(0, 40), item_bytes=st.integers(1, 9))
@settings(derandomize=True, deadline=None)
def test_lengths_that_do_not_divide(names: tuple[str, str], n: int, length: int, item_bytes: int) -> None:
    """With item_bytes the matrix is that of whole items, to the byte."""
    op, algorithm = names
    net = simulator.Network([[1000 * rank + index for index in range(length)] for rank in range(n)])
    UNEVEN[names](net)
    size = length * item_bytes
    counted = [[item_bytes * items for items in row] for row in net.sent]
    matrix = traffic_matrix(op, size, n, algorithm, direction="successor", item_bytes=item_bytes)
    assert matrix == counted
    busiest = wire_bytes(op, num_bytes=size, world_size=n, algorithm=algorithm, item_bytes=item_bytes)
    assert busiest == max(map(sum, traffic_matrix(op, size, n, algorithm, item_bytes=item_bytes)))
    closed = wire_bytes(op, num_bytes=size, world_size=n, algorithm=algorithm)
    assert closed == pytest.approx(busiest) if length % n == 0 else abs(closed - busiest) < 2 * n * item_bytes


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_what_gloos_reduce_scatter_costs(n: int) -> None:
    whole = wire_bytes("all_reduce", num_bytes=24, world_size=n)
    assert wire_bytes("reduce_scatter", num_bytes=24, world_size=n, algorithm="all_reduce") == whole
    assert wire_bytes("reduce_scatter", num_bytes=24, world_size=n) == pytest.approx(whole / 2)
    assert steps("reduce_scatter", world_size=n, algorithm="all_reduce") == steps("all_reduce", world_size=n)


def test_bytes_moved_through_shared_memory() -> None:
    moved = collectives.shared_memory_bytes
    assert moved("all_reduce", num_bytes=12, world_size=4) == 48  # 12 in, 12 of each of three peers out
    assert moved("all_reduce", num_bytes=12, world_size=4, algorithm="two_shot") == (9 + 9) + (3 + 9)
    assert moved("reduce_scatter", num_bytes=12, world_size=4) == 9 + 9
    assert moved("all_to_all", num_bytes=12, world_size=4) == 9 + 9
    assert moved("all_gather", num_bytes=12, world_size=4) == 3 + 9
    assert moved("broadcast", num_bytes=12, world_size=4) == 12
    assert moved("send", num_bytes=12, world_size=4) == 12
    assert moved("all_reduce", num_bytes=12, world_size=1) == 0
    # 5 items of 4 bytes on 3 ranks are 2, 2 and 1: rank 0 puts in 3 items and reads its 2 twice
    assert moved("reduce_scatter", num_bytes=20, world_size=3, item_bytes=4) == 4 * (3 + 4)


def test_alpha_beta_times() -> None:
    link = Link(alpha_s=2.0, bandwidth_Bps=4.0)
    assert time_s("all_reduce", num_bytes=16, world_size=4, link=link) == 6 * 2 + 24 / 4
    for n, rounds in ((4, 2), (5, 4)):
        seconds = time_s("all_reduce", num_bytes=16, world_size=n, link=link, algorithm="recursive_doubling")
        assert seconds == rounds * (2 + 4)
    assert time_s("broadcast", num_bytes=16, world_size=5, link=link) == 3 * (2 + 4)
    assert time_s("all_reduce", num_bytes=16, world_size=4, link=link, algorithm="one_shot") == 2 + 48 / 4
    assert time_s("all_reduce", num_bytes=16, world_size=5, link=link, algorithm="binomial_tree") == 6 * (2 + 4)
    assert time_s("reduce_scatter", num_bytes=16, world_size=4, link=link, algorithm="all_reduce") == 6 * 2 + 24 / 4


@given(n=st.integers(2, 64), size=st.integers(1, 2**40))
def test_busbw_of_a_perfect_ring_is_the_link(n: int, size: int) -> None:
    link = Link(alpha_s=0, bandwidth_Bps=450e9)
    for op in ("all_reduce", "all_gather", "reduce_scatter"):
        seconds = time_s(op, num_bytes=size, world_size=n, link=link, algorithm="ring")
        busbw = collectives.busbw_Bps(op, num_bytes=size, world_size=n, seconds=seconds)
        assert math.isclose(busbw, 450e9, rel_tol=1e-9)
    assert collectives.busbw_factor("broadcast", n) == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: wire_bytes("all_redcue", num_bytes=1, world_size=2),
            "op='all_redcue'; allowed: all_reduce,",
        ),
        (lambda: steps("all_reduce", world_size=0), "world_size=0; allowed"),
        (lambda: steps("all_reduce", world_size=True), "world_size=True"),
        (lambda: wire_bytes("all_reduce", num_bytes=-1, world_size=2), "num_bytes=-1; allowed"),
        (lambda: wire_bytes("all_reduce", num_bytes=math.nan, world_size=2), "num_bytes=nan"),
        (
            lambda: wire_bytes("all_to_all", num_bytes=1, world_size=2, algorithm="ring"),
            "algorithm='ring' for all_to_all; allowed: one_shot",
        ),
        (lambda: traffic_matrix("broadcast", 1, 2, src=2), r"src=2 .*allowed: 0\.\.1"),
        (lambda: traffic_matrix("send", 1, 2, dst=0), "dst=0"),
        (lambda: traffic_matrix("all_reduce", 1, 2, direction="left"), "direction='left'; allowed"),  # type: ignore[arg-type]
        (lambda: wire_bytes("all_reduce", num_bytes=10, world_size=2, item_bytes=4), "item_bytes=4"),
        (lambda: traffic_matrix("all_reduce", 8, 2, item_bytes=0), "item_bytes=0"),
        (
            lambda: collectives.shared_memory_bytes("all_reduce", num_bytes=1, world_size=2, algorithm="ring"),
            "algorithm='ring' over shared memory; allowed: one_shot, two_shot",
        ),
        (lambda: collectives.algbw_Bps(1, 0), "seconds=0"),
        (lambda: Link(alpha_s=-1, bandwidth_Bps=1), "alpha_s=-1"),
        (lambda: Link(alpha_s=0, bandwidth_Bps=0), "bandwidth_Bps=0"),
    ],
)
def test_mistakes_name_the_value_and_what_is_allowed(call, said: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=said):
        call()
