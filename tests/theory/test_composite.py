"""Composite costs: bytes against the sum of their parts, times by hand, and the ledger's numbers on experts."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab.theory import composite, nccl
from shardlab.theory.collectives import wire_bytes
from shardlab.theory.composite import Bounds
from shardlab.theory.cost import TimeOf, of_link
from shardlab.theory.hardware import Link

FUZZ = settings(max_examples=100, derandomize=True, deadline=None)
INSIDE = of_link(Link(1e-6, 400e9))
ACROSS = of_link(Link(5e-6, 50e9))
nodes = st.integers(1, 8)


def bytes_of(op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None) -> float:
    """A TimeOf whose seconds are the bytes that a rank sends."""
    return wire_bytes(op, num_bytes=num_bytes, world_size=world_size, algorithm=algorithm)


def nothing(op: str, *, num_bytes: float, world_size: int, algorithm: str | None = None) -> float:
    return 0.0


@FUZZ
@given(ranks_per_node=nodes, num_nodes=nodes, size=st.integers(0, 2**30))
def test_hierarchical_bytes_are_the_sum_of_its_collectives(ranks_per_node: int, num_nodes: int, size: int) -> None:
    found = composite.hierarchical_all_reduce_bytes(size, ranks_per_node=ranks_per_node, num_nodes=num_nodes)
    slice_bytes = size / ranks_per_node
    assert found.inside == pytest.approx(
        wire_bytes("reduce_scatter", num_bytes=size, world_size=ranks_per_node)
        + wire_bytes("all_gather", num_bytes=size, world_size=ranks_per_node)
    )
    assert found.across == pytest.approx(wire_bytes("all_reduce", num_bytes=slice_bytes, world_size=num_nodes))
    # The time function carries these bytes at each level, and no others.
    shape = {"ranks_per_node": ranks_per_node, "num_nodes": num_nodes}
    for inside, across, wanted in ((bytes_of, nothing, found.inside), (nothing, bytes_of, found.across)):
        seconds = composite.hierarchical_all_reduce_s(size, **shape, inside=inside, across=across)
        assert seconds == pytest.approx(wanted)
    # Together at least what any all_reduce needs: 2 S (n-1)/n with n = g N. Here with equality.
    n = ranks_per_node * num_nodes
    assert sum(found) == pytest.approx(2 * size * (n - 1) / n)


def test_hierarchical_time_by_hand() -> None:
    seconds = composite.hierarchical_all_reduce_s(8e6, ranks_per_node=8, num_nodes=2, inside=INSIDE, across=ACROSS)
    assert seconds == pytest.approx(2 * (7e-6 + 7e6 / 400e9) + 2 * 5e-6 + 1e6 / 50e9)
    flat = ACROSS("all_reduce", num_bytes=8e6, world_size=16)
    assert seconds < flat / 4
    of_nccl = nccl.model(nccl.DGX_H100)
    mixed = composite.hierarchical_all_reduce_s(8e6, ranks_per_node=8, num_nodes=2, inside=of_nccl, across=ACROSS)
    assert mixed > 0


def test_one_level_is_left_where_there_is_one() -> None:
    one_node = composite.hierarchical_all_reduce_s(8e6, ranks_per_node=4, num_nodes=1, inside=INSIDE, across=ACROSS)
    assert one_node == pytest.approx(INSIDE("all_reduce", num_bytes=8e6, world_size=4))
    one_each = composite.hierarchical_all_reduce_s(8e6, ranks_per_node=1, num_nodes=4, inside=INSIDE, across=ACROSS)
    assert one_each == pytest.approx(ACROSS("all_reduce", num_bytes=8e6, world_size=4))


@pytest.mark.parametrize(("experts", "per_token", "copies", "reached"), [(64, 2, 1.75, 1.653), (256, 8, 7.0, 4.63)])
def test_what_leaves_a_rank_as_the_ledger_has_it(experts: int, per_token: int, copies: float, reached: float) -> None:
    assert composite.copies_leaving(experts, per_token, 8) == copies
    assert composite.groups_reached(experts, per_token, 8) == pytest.approx(reached, abs=5e-3)


def test_nearly_every_token_leaves() -> None:
    assert composite.token_leaves(64, 2, 8) == pytest.approx(0.986, abs=5e-4)
    assert composite.token_leaves(64, 2, 1) == 0
    assert composite.token_leaves(64, 1, 8) == pytest.approx(7 / 8)


@FUZZ
@given(per_group=st.integers(1, 3), groups=st.integers(1, 4), data=st.data())
def test_expectations_by_counting_every_routing(per_group: int, groups: int, data: st.DataObject) -> None:
    experts = per_group * groups
    per_token = data.draw(st.integers(1, min(4, experts)))
    routings = list(itertools.combinations(range(experts), per_token))
    away = [[expert // per_group for expert in routing if expert >= per_group] for routing in routings]
    count = len(routings)
    assert composite.copies_leaving(experts, per_token, groups) == pytest.approx(sum(map(len, away)) / count)
    assert composite.groups_reached(experts, per_token, groups) == pytest.approx(
        sum(len(set(one)) for one in away) / count
    )
    assert composite.token_leaves(experts, per_token, groups) == pytest.approx(sum(1 for one in away if one) / count)


def test_expert_exchange_at_two_levels() -> None:
    def sent(inside: TimeOf, across: TimeOf) -> Bounds:
        return composite.expert_all_to_all_s(
            128, experts_per_token=8, token_bytes=7168, ranks_per_node=8, num_nodes=4, inside=inside, across=across
        )

    copies = 128 * 8 * 7168
    # Uniform routing: 7/32 of the copies go to ranks of the own node, 24/32 to other nodes, 1/32 stays.
    assert sent(bytes_of, nothing).upper_s == pytest.approx(copies * 7 / 32)
    assert sent(nothing, bytes_of).upper_s == pytest.approx(copies * 24 / 32)
    both = sent(INSIDE, ACROSS)
    near, far = sent(INSIDE, nothing).upper_s, sent(nothing, ACROSS).upper_s
    assert (both.lower_s, both.upper_s) == (pytest.approx(max(near, far)), pytest.approx(near + far))
    rank = random.Random(0)  # the same shares, counted on drawn routings; this rank is number 0
    where = [rank.randrange(32) for _ in range(100_000)]
    assert sum(1 for one in where if 1 <= one < 8) / len(where) == pytest.approx(7 / 32, abs=0.01)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: composite.hierarchical_all_reduce_bytes(-1, ranks_per_node=1, num_nodes=1), "num_bytes=-1"),
        (lambda: composite.hierarchical_all_reduce_bytes(1, ranks_per_node=0, num_nodes=1), "ranks_per_node=0"),
        (lambda: composite.groups_reached(64, 65, 8), "experts_per_token=65; allowed: at most num_experts=64"),
        (lambda: composite.groups_reached(63, 2, 8), "num_experts=63 over num_groups=8"),
        (
            lambda: composite.expert_all_to_all_s(
                -1,
                experts_per_token=1,
                token_bytes=1,
                ranks_per_node=1,
                num_nodes=1,
                inside=nothing,
                across=nothing,
            ),
            "tokens=-1",
        ),
    ],
)
def test_mistakes_name_the_value(call, said: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=said):
        call()
