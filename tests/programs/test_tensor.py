"""Lab 03's programs: the sharded layer equals the whole one, and a spoilt one is seen."""

from __future__ import annotations

import pytest
import torch

from shardlab import Plan, Ranks, comm
from shardlab.comm.mesh import Axis, Mesh
from shardlab.programs import forward, machine, tensor
from shardlab.theory import ledger

PROGRAMS = [tensor.linear_pair, tensor.gather_between, tensor.mlp_forward, tensor.attention_forward]


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_equal_to_the_whole_layer(ranks: Ranks, program, degree: int) -> None:
    assert all(report.equal for report in ranks.run(program, plan=Plan(tp=degree)))


def without_the_sum(mesh: Mesh) -> tensor.Parity:
    def forget(partial: torch.Tensor, axis: Axis) -> torch.Tensor:
        return partial

    honest, comm.all_reduce = comm.all_reduce, forget
    try:
        return tensor.linear_pair(mesh)
    finally:
        comm.all_reduce = honest


def test_a_missing_all_reduce_is_not_equal(ranks: Ranks) -> None:
    assert not any(report.equal for report in ranks.run(without_the_sum, plan=Plan(tp=2)))


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_a_forward_sends_what_the_ledger_says(ranks: Ranks, degree: int) -> None:
    shape = tensor.toy_shape()
    sent = ranks.run(forward.forward_transfers, shape, 2, 3, plan=Plan(tp=degree))
    assert sent == [ledger.forward(shape, Plan(tp=degree), batch=2, seq=3)] * degree


def test_rates_make_a_link_that_gives_the_measured_times_back() -> None:
    rates = machine.Rates(1e11, 1e10, 1e-3, 5e-3, 2304, 4 << 20)
    link = rates.as_accelerator(4).link
    assert link.alpha_s == pytest.approx(1e-3 / 6)
    assert 2 * 3 / 4 * (4 << 20) / link.bandwidth_Bps == pytest.approx(4e-3)


def test_an_unknown_dtype_is_named() -> None:
    with pytest.raises(ValueError, match="int3.*float32"):
        tensor.torch_dtype("int3")
