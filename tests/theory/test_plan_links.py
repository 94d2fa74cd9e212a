"""theory.plan.links and prices: who talks to whom on an axis, over which link, for how long."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardlab.theory import nccl
from shardlab.theory.collectives import time_s
from shardlab.theory.degrees import Plan
from shardlab.theory.hardware import Link, cluster
from shardlab.theory.ledger import Transfer
from shardlab.theory.plan.links import Pricing, Spread, groups, one_level, spread
from shardlab.theory.plan.prices import CALL_S, by_level, on_cluster

FAST, SLOW = Link(1.0, 100.0), Link(10.0, 5.0)


def inside(op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None) -> float:
    return time_s(op, num_bytes=num_bytes, world_size=world_size, link=FAST, algorithm=algorithm)


def across(op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None) -> float:
    return time_s(op, num_bytes=num_bytes, world_size=world_size, link=SLOW, algorithm=algorithm)


TWO = by_level(inside, across)


def test_groups_of_every_axis_by_hand() -> None:
    plan = Plan(dp=2, pp=2, cp=1, tp=2, ep=4)
    assert groups(plan, "tp") == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert set(groups(plan, "pp")) == {(0, 2), (1, 3), (4, 6), (5, 7)}
    assert set(groups(plan, "dp")) == {(0, 4), (1, 5), (2, 6), (3, 7)}
    assert groups(plan, "ep") == ((0, 1, 4, 5), (2, 3, 6, 7))  # a stage's ranks: replicas are four apart


@given(st.tuples(*[st.integers(1, 3)] * 4), st.sampled_from(["dp", "pp", "cp", "tp", "ep"]))
def test_groups_are_the_mesh_cut_into_equal_lines(degrees: tuple[int, ...], axis: str) -> None:
    plan = Plan(*degrees, ep=degrees[0] * degrees[3])
    found = groups(plan, axis)
    assert sorted(rank for group in found for rank in group) == list(range(plan.world_size))
    assert {len(group) for group in found} == {getattr(plan, axis)}
    if axis != "ep":
        places = {rank: place for rank, place in enumerate(product(*(range(degree) for degree in degrees)))}
        other = [i for i, name in enumerate(("dp", "pp", "cp", "tp")) if name != axis]
        assert all(len({tuple(places[rank][i] for i in other) for rank in group}) == 1 for group in found)


@pytest.mark.parametrize(
    ("plan", "axis", "wanted"),
    [
        (Plan(dp=2, tp=8), "tp", Spread(8, 1)),
        (Plan(tp=16), "tp", Spread(8, 2)),
        (Plan(cp=2, tp=8), "cp", Spread(1, 2)),
        (Plan(cp=4, tp=4), "cp", Spread(2, 2)),
        (Plan(dp=4, tp=6), "tp", Spread(4, 2)),  # ranks 6 to 11 lie on both sides of a node's edge
        (Plan(dp=16, ep=16), "ep", Spread(8, 2)),
        (Plan(dp=4, pp=2, tp=2, ep=4), "ep", Spread(4, 1)),
    ],
)
def test_the_widest_group_sets_the_pace(plan: Plan, axis: str, wanted: Spread) -> None:
    assert spread(plan, axis, 8) == wanted


@given(st.tuples(*[st.integers(1, 6)] * 4), st.sampled_from(["pp", "cp", "tp", "ep"]), st.sampled_from([1, 2, 3, 4, 8]))
def test_the_short_ways_find_what_a_search_of_all_groups_finds(degrees: tuple[int, ...], axis: str, node: int) -> None:
    dp, pp, cp, tp = degrees
    plan = Plan(dp, pp, cp, tp, ep=cp * tp)
    scattered = []
    for ranks in groups(plan, axis):
        nodes = [rank // node for rank in ranks]
        scattered.append((len(set(nodes)), max(nodes.count(one) for one in nodes)))
    found = spread(plan, axis, node)
    assert (found.num_nodes, found.ranks_per_node) == max(scattered)


def test_a_collective_over_both_levels_uses_both_links() -> None:
    halves = inside("reduce_scatter", num_bytes=800, world_size=4) + inside("all_gather", num_bytes=800, world_size=4)
    both = TWO("all_reduce", num_bytes=800, ranks_per_node=4, num_nodes=2)
    assert both == halves + across("all_reduce", num_bytes=200, world_size=2)
    gather = TWO("all_gather", num_bytes=800, ranks_per_node=4, num_nodes=2)
    assert gather == across("all_gather", num_bytes=200, world_size=2) + inside(
        "all_gather", num_bytes=800, world_size=4
    )
    exchange = TWO("all_to_all", num_bytes=800, ranks_per_node=4, num_nodes=2)
    assert exchange == across("all_to_all", num_bytes=800, world_size=2) == 10 + 400 / 5
    assert TWO("send", num_bytes=50, ranks_per_node=1, num_nodes=2) == 10 + 50 / 5
    assert TWO("send", num_bytes=50, ranks_per_node=2, num_nodes=1) == 1 + 50 / 100
    assert TWO("broadcast", num_bytes=50, ranks_per_node=2, num_nodes=2) == 10 + 50 / 5 + 1 + 50 / 100


@given(
    st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]), st.integers(1, 8), st.integers(1, 4)
)
def test_more_bytes_never_take_less_and_one_rank_takes_nothing(op: str, per_node: int, nodes: int) -> None:
    for level_time in (TWO, on_cluster(cluster("dgx-a100:4"))):
        times = [level_time(op, num_bytes=size, ranks_per_node=per_node, num_nodes=nodes) for size in (1, 1e4, 1e7)]
        assert times == sorted(times)
        assert (times[0] == 0) == (per_node * nodes == 1)


def test_hopper_gets_ncclss_estimate_and_others_a_call_and_the_line() -> None:
    hopper, ampere = on_cluster(cluster("dgx-h100:2")), on_cluster(cluster("dgx-a100:2"))
    estimate = nccl.model(nccl.DGX_H100)("all_reduce", num_bytes=16_384, world_size=8)
    assert hopper("all_reduce", num_bytes=16_384, ranks_per_node=8, num_nodes=1) == estimate
    line = time_s("all_reduce", num_bytes=16_384, world_size=8, link=cluster("dgx-a100").link("node"))
    assert ampere("all_reduce", num_bytes=16_384, ranks_per_node=8, num_nodes=1) == pytest.approx(CALL_S + line)
    within = hopper("send", num_bytes=1e6, ranks_per_node=2, num_nodes=1)
    assert within == pytest.approx(CALL_S + 0.6e-6 + 1e6 / 450e9)
    assert hopper("send", num_bytes=1e6, ranks_per_node=1, num_nodes=2) == pytest.approx(CALL_S + 2.7e-6 + 1e6 / 50e9)
    two_nodes = hopper("all_reduce", num_bytes=16_384, ranks_per_node=8, num_nodes=2)
    assert two_nodes > 2 * estimate  # the network, and both halves inside a node


def test_a_bill_adds_up_and_tells_latency_from_bandwidth() -> None:
    pricing = Pricing(Plan(pp=2, tp=4), 4, TWO)
    reduce = Transfer("all_reduce", "tp", 400)
    found = pricing.comm_time([reduce, reduce, Transfer("send", "pp", 400)])  # the boundary has its own price
    one = inside("all_reduce", num_bytes=400, world_size=4)
    assert found.total_s == pytest.approx(2 * one)
    assert found.latency_s == pytest.approx(2 * inside("all_reduce", num_bytes=1, world_size=4))
    assert pricing.comm_time([]).total_s == 0


def test_a_boundary_crosses_where_stages_meet_on_two_nodes() -> None:
    pricing = Pricing(Plan(pp=4, tp=2), 4, TWO)  # two stages a node
    prices = [pricing.boundary(stage, 50).total_s for stage in range(3)]
    assert prices == pytest.approx([1.5, 20, 1.5])


def test_ring_sends_pay_for_the_slowest_pair() -> None:
    send = [Transfer("send", "cp", 50)]
    assert Pricing(Plan(cp=4, tp=1), 4, TWO).comm_time(send).total_s == pytest.approx(1.5)
    assert Pricing(Plan(cp=4, tp=2), 4, TWO).comm_time(send).total_s == pytest.approx(20)


def test_one_level_counts_ranks_only() -> None:
    level_time = one_level(inside)
    assert level_time("all_reduce", num_bytes=80, ranks_per_node=2, num_nodes=2) == inside(
        "all_reduce", num_bytes=80, world_size=4
    )
