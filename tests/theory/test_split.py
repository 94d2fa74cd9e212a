"""theory.split: every element once, as even as it goes, and the KV heads that go with the query heads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardlab.theory.split import check_tp, even_split, kv_heads_of, largest_tp
from shardlab.theory.transformer import MODELS


def test_nine_heads_on_four_ranks() -> None:
    assert even_split(9, 4) == (range(0, 3), range(3, 5), range(5, 7), range(7, 9))


@given(total=st.integers(0, 300), parts=st.integers(1, 40))
def test_a_split_covers_everything_once_and_evenly(total: int, parts: int) -> None:
    ranges = even_split(total, parts)
    assert len(ranges) == parts
    assert [element for one in ranges for element in one] == list(range(total))
    sizes = [len(one) for one in ranges]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("total", "parts"), [(4, 0), (4, -1), (-1, 2)])
def test_a_split_that_makes_no_sense_names_the_value(total: int, parts: int) -> None:
    with pytest.raises(ValueError, match=f"(parts={parts}|total={total})"):
        even_split(total, parts)


@given(data=st.data(), kv=st.integers(1, 12), group=st.integers(1, 8))
def test_kv_heads_are_exactly_those_that_the_query_heads_read(data: st.DataObject, kv: int, group: int) -> None:
    heads = kv * group
    start = data.draw(st.integers(0, heads))
    stop = data.draw(st.integers(start, heads))
    wanted = sorted({head // group for head in range(start, stop)})
    assert list(kv_heads_of(range(start, stop), heads, kv)) == wanted


@given(kv=st.integers(1, 12), group=st.integers(1, 8), tp=st.integers(1, 96))
def test_a_rank_never_holds_more_kv_heads_than_its_share_and_two_edges(kv: int, group: int, tp: int) -> None:
    heads = kv * group
    if tp > heads:
        return
    held = [kv_heads_of(one, heads, kv) for one in even_split(heads, tp)]
    assert sorted({head for one in held for head in one}) == list(range(kv))
    assert all(1 <= len(one) <= -(-kv // tp) + 1 for one in held)


@pytest.mark.parametrize(
    ("query_heads", "heads", "kv", "said"),
    [
        (range(0, 2), 9, 2, "num_kv_heads=2"),
        (range(0, 12), 9, 3, r"range\(0, 12\)"),
        (range(0, 4, 2), 9, 3, "step 1"),
        (range(0, 1), 9, 0, "num_kv_heads=0"),
    ],
)
def test_wrong_heads_are_named(query_heads: range, heads: int, kv: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kv_heads_of(query_heads, heads, kv)


def test_a_degree_above_the_heads_is_refused_with_those_that_work() -> None:
    smollm = MODELS["smollm2-135m"]
    for degree in (10, 16):
        with pytest.raises(ValueError, match=rf"tp={degree} .*num_heads=9.*degrees that work: 1\.\.9"):
            check_tp(smollm, degree)
    for degree in range(1, largest_tp(smollm) + 1):
        check_tp(smollm, degree)


@pytest.mark.parametrize("tp", [0, -1, True, 2.0])
def test_a_degree_is_a_positive_integer(tp: int) -> None:
    with pytest.raises(ValueError, match=f"tp={tp}"):
        check_tp(MODELS["llama-3-8b"], tp)
