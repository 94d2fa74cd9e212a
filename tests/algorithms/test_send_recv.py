"""The algorithms of send and recv on ranks that are threads: any number of ranks, any length, every message counted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab import algorithms
from shardlab.algorithms import IMPLEMENTATIONS, Implementation
from shardlab.comm.mesh import Axis
from shardlab.theory.collectives import steps, traffic_matrix, wire_bytes
from tests.algorithms.expected import DTYPES, bits, expected, fractions, whole_numbers
from tests.algorithms.threads import on_threads

OURS = [one for one in IMPLEMENTATIONS if one.transport == "send_recv"]
every = pytest.mark.parametrize("one", OURS, ids=str)
sizes = st.integers(1, 8)
lengths = st.one_of(st.sampled_from([0, 1, 2, 3, 5, 7, 11, 13, 31, 61]), st.integers(0, 64))
few = settings(derandomize=True, deadline=None, max_examples=60)


def call(one: Implementation, tensor: torch.Tensor, axis: Axis, src: int) -> torch.Tensor:
    return algorithms.run(one.op, tensor, axis, algorithm=one.algorithm, transport=one.transport, src=src)


@every
@given(n=sizes, length=lengths, width=st.sampled_from([None, 1, 3]), dtype=st.sampled_from(DTYPES), data=st.data())
@few
def test_exact_and_the_input_is_left_alone(
    one: Implementation, n: int, length: int, width: int | None, dtype: torch.dtype, data: st.DataObject
) -> None:
    src = data.draw(st.integers(0, n - 1))
    shape = (length,) if width is None else (length, width)
    inputs = [whole_numbers(rank, shape, dtype) for rank in range(n)]
    given_out = [tensor.clone() for tensor in inputs]
    wire = on_threads(n, lambda axis: call(one, given_out[axis.rank], axis, src))
    for rank, result in enumerate(wire.results):
        assert torch.equal(result, expected(one.op, inputs, rank, src))
        assert result.data_ptr() != given_out[rank].data_ptr() or not result.numel()
    assert all(map(torch.equal, given_out, inputs))


@every
@given(n=sizes, length=lengths, width=st.sampled_from([1, 3]), dtype=st.sampled_from(DTYPES), data=st.data())
@few
def test_every_message_is_in_the_formula(
    one: Implementation, n: int, length: int, width: int, dtype: torch.dtype, data: st.DataObject
) -> None:
    src = data.draw(st.integers(0, n - 1))
    wire = on_threads(n, lambda axis: call(one, torch.ones(length, width, dtype=dtype), axis, src))
    num_bytes = length * width * dtype.itemsize * (n if one.op == "all_gather" else 1)
    item_bytes = dtype.itemsize * (1 if one.op == "all_reduce" else width)
    formula = traffic_matrix(one.op, num_bytes, n, one.algorithm, src=src, item_bytes=item_bytes)
    assert wire.sent == formula
    busiest = wire_bytes(one.op, num_bytes=num_bytes, world_size=n, algorithm=one.algorithm, item_bytes=item_bytes)
    assert max(map(sum, wire.sent)) == busiest
    assert max(wire.clocks) == steps(one.op, world_size=n, algorithm=one.algorithm)


@pytest.mark.parametrize("one", [one for one in OURS if one.op == "all_reduce"], ids=str)
@given(n=sizes, length=lengths, dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
@few
def test_the_same_bits_on_every_rank(one: Implementation, n: int, length: int, dtype: torch.dtype) -> None:
    wire = on_threads(n, lambda axis: call(one, fractions(axis.rank, (length,), dtype), axis, 0))
    assert len({bits(result) for result in wire.results}) == 1


@pytest.mark.parametrize("one", [one for one in OURS if one.op in ("all_reduce", "broadcast")], ids=str)
def test_a_tensor_without_dimensions(one: Implementation) -> None:
    wire = on_threads(5, lambda axis: call(one, torch.tensor(2.0 + axis.rank), axis, 1))
    assert [tuple(result.shape) for result in wire.results] == [()] * 5
    assert {result.item() for result in wire.results} == {20.0 if one.op == "all_reduce" else 3.0}


def test_a_strided_input_is_read_in_its_own_order() -> None:
    wire = on_threads(3, lambda axis: call(OURS[0], whole_numbers(axis.rank, (4, 5), torch.float32).T, axis, 0))
    assert torch.equal(
        wire.results[0],
        sum(whole_numbers(rank, (4, 5), torch.float32) for rank in range(3)).T,  # type: ignore[union-attr]
    )
