"""Lab 07's exercises: the solution is right, and each mistake is named for what it is."""

from __future__ import annotations

import pytest

from shardlab import Ranks, check


def experts(tokens, k, T, d_model, dtype_bytes):
    return 2 * k * (T - 1) / T * tokens * d_model * dtype_bytes


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (lambda n, k, T, d, b: 2 * (T - 1) / T * n * d * b, "k copies of it travel"),
        (lambda n, k, T, d, b: k * (T - 1) / T * n * d * b, "two all_to_alls"),
        (lambda n, k, T, d, b: (T - 1) / T * n * d * b, "and what was dispatched comes back"),
        (lambda n, k, T, d, b: 2 * k * n * d * b, "stay where they are"),
        (lambda n, k, T, d, b: 2 * k * (T - 1) / T * n * d, "each of D elements"),
        (lambda n, k, T, d, b: n.tokens, "AttributeError"),
    ],
)
def test_expert_bytes_names_the_mistake(ranks: Ranks, attempt, says: str) -> None:
    verdict = check.expert_bytes(attempt, ranks)
    assert not verdict and says in repr(verdict)


def test_expert_bytes_right(ranks: Ranks) -> None:
    assert check.expert_bytes(experts, ranks)


def shortest(memory_s, all_reduce_s, num_all_reduces, degrees):
    return min(degrees, key=lambda T: memory_s / T + (num_all_reduces * all_reduce_s(T) if T > 1 else 0))


def rule_of_thumb(memory_s, all_reduce_s, num_all_reduces, degrees):
    return max(T for T in degrees if T == 1 or num_all_reduces * all_reduce_s(T) <= memory_s / T)


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (rule_of_thumb, "may still save more"),
        (lambda memory_s, all_reduce_s, number, degrees: degrees[-1], "T=8"),
        (lambda memory_s, all_reduce_s, number, degrees: 3, "not one of"),
        (lambda memory_s, all_reduce_s, number, degrees: [8], "returned [8], not a number"),
        (lambda memory_s, all_reduce_s, number, degrees: float("inf"), "inf, which is not one of"),
        (lambda memory_s, all_reduce_s, number, degrees: 1 // 0, "ZeroDivisionError"),
    ],
)
def test_stops_paying_names_the_mistake(attempt, says: str) -> None:
    verdict = check.stops_paying(attempt)
    assert not verdict and says in repr(verdict)


def test_stops_paying_right() -> None:
    assert check.stops_paying(shortest)


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (lambda num_weights, group: num_weights / 2, "count the scales"),
        (lambda num_weights, group: num_weights * 4.125 / 8, "16/group"),
        (lambda num_weights, group: None, "returned None, not a number"),
        (lambda num_weights, group: float("nan"), "returned nan, not a number"),
    ],
)
def test_int4_names_the_mistake(attempt, says: str) -> None:
    verdict = check.int4_bytes(attempt)
    assert not verdict and says in repr(verdict)


def test_int4_right() -> None:
    assert check.int4_bytes(lambda num_weights, group: num_weights * (4 + 16 / group) / 8)
