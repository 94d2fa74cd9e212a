"""The kernels over symmetric memory among the others: measured, chosen where they are cheapest, fused where that pays.

Real processes, interpreted kernels. What a CPU measures of them means nothing, but the way of a choice is the same.
"""

from __future__ import annotations

import pytest
import torch

from shardlab import Plan, Ranks, algorithms
from shardlab.algorithms import SYMMETRIC, Implementation
from shardlab.algorithms.choose import Cheapest
from shardlab.algorithms.over_symmetric_memory import fits, room_for
from shardlab.algorithms.symmetric import symmetric_memory
from shardlab.comm.mesh import Axis, Mesh
from shardlab.comm.recorder import Recorder
from shardlab.sweep.calibrate import calibrate, calibrate_fused_norm
from shardlab.sweep.driver import sweep
from shardlab.theory.cost import Cost, CostModel, FusedNorm
from shardlab_kernels import rms_norm
from shardlab_kernels.symmetric_memory import SymmetricMemory

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="ranks on the CPU need interpreted kernels")
FAST, SLOW = Cost(1e-6, 1e12), Cost(1.0, 1e12)
NEVER, ALWAYS = FusedNorm(Cost(5.0, 1e12), FAST), FusedNorm(FAST, FAST)
D = 24


def model_where(symmetric: Cost, backend: Cost, world_size: int) -> CostModel:
    return CostModel(
        {
            ("all_reduce", "one_shot", "symmetric_memory", world_size): symmetric,
            ("all_reduce", "two_shot", "symmetric_memory", world_size): SLOW,
            ("all_reduce", "ring", "backend", world_size): backend,
        }
    )


def chosen_and_sum(mesh: Mesh, model: CostModel) -> tuple[Implementation, torch.Tensor, list]:
    axis = mesh["tp"]
    cheapest = Cheapest(model, axis, symmetric=symmetric_memory(axis, room_for(4096, axis.size)))
    partial = torch.arange(1000, dtype=torch.float32) + axis.rank
    mesh.recorder.transfers.clear()
    return cheapest.choice("all_reduce", partial.nbytes), cheapest.all_reduce(partial), list(mesh.recorder.transfers)


@pytest.mark.parametrize(
    ("symmetric", "backend", "transport"), [(FAST, SLOW, "symmetric_memory"), (SLOW, FAST, "backend")]
)
def test_the_cheapest_runs(symmetric: Cost, backend: Cost, transport: str, ranks: Ranks) -> None:
    model = model_where(symmetric, backend, 2)
    for choice, total, transfers in ranks.run(chosen_and_sum, model, plan=Plan(tp=2)):
        assert choice.transport == transport
        assert torch.equal(total, 2 * torch.arange(1000) + 1.0)
        assert [(one.op, one.num_bytes) for one in transfers] == [("all_reduce", 4000)]


def test_what_does_not_fit_is_not_chosen() -> None:
    axis = Axis("tp", 0, 2, (0, 1), None, Recorder())
    memory = SymmetricMemory(
        0, [0, 4096], torch.zeros(1, 4096 + 2 * 32 * 8192, dtype=torch.uint8), 4096, 32, stacked=False
    )
    most = 32 * 8192
    assert fits("one_shot", most, memory) and not fits("one_shot", most + 1, memory)
    cheapest = Cheapest(model_where(FAST, SLOW, 2), axis, symmetric=memory)
    assert cheapest.choice("all_reduce", most).transport == "symmetric_memory"
    assert cheapest.choice("all_reduce", most + 4).transport == "backend"
    assert Cheapest(model_where(FAST, SLOW, 2), axis).choice("all_reduce", 4).transport == "backend"
    assert not Cheapest(model_where(FAST, SLOW, 2), axis, symmetric=memory, fused=ALWAYS).fuses(most + 4)


def normed(mesh: Mesh, model: CostModel, fused: FusedNorm) -> tuple[bool, torch.Tensor, torch.Tensor]:
    axis = mesh["tp"]
    cheapest = Cheapest(model, axis, symmetric=symmetric_memory(axis, room_for(4096, axis.size)), fused=fused)
    partial = torch.linspace(-1, 1, 5 * D).view(5, D) * (axis.rank + 1)
    residual, weight = torch.linspace(0, 1, 5 * D).view(5, D), torch.linspace(1, 2, D)
    return cheapest.fuses(partial.nbytes), *cheapest.all_reduce_rms_norm(partial, residual, weight, 1e-5)


@pytest.mark.parametrize(("fused", "expected"), [(ALWAYS, True), (NEVER, False)])
def test_fused_where_it_pays_and_the_same_numbers(fused: FusedNorm, expected: bool, ranks: Ranks) -> None:
    """The cheapest all_reduce takes a second here: a kernel of a microsecond pays, one of five seconds does not."""
    model = model_where(Cost(2.0, 1e12), Cost(0.5, 1e12), 2)
    total = torch.linspace(-1, 1, 5 * D).view(5, D) * 3 + torch.linspace(0, 1, 5 * D).view(5, D)
    wanted = rms_norm.reference(total, torch.linspace(1, 2, D), 1e-5)
    for fuses, found, added in ranks.run(normed, model, fused, plan=Plan(tp=2)):
        assert fuses is expected
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(added, total)


def test_they_are_swept_and_calibrated_like_the_others(ranks: Ranks) -> None:
    points = sweep(ranks, SYMMETRIC, (4096,), (2,), rounds=1)
    assert [(one.algorithm, one.counted, one.sent_bytes) for one in points] == [
        ("one_shot", "by the formula", 4096),
        ("two_shot", "by the formula", 4096),
    ]
    model = calibrate(
        ranks, 2, 6.0, ops=("all_reduce",), transports=("backend", "symmetric_memory"), sizes=(1024, 4096, 16384)
    )
    assert {key.transport for key in model} == {"backend", "symmetric_memory"}
    assert model.best("all_reduce", 1024, 2).transport == "backend"  # interpreted kernels are never the faster ones
    fused = calibrate_fused_norm(ranks, D, (1, 8), world_size=2, rounds=1, calls=1)
    assert fused.time_s(D * 4) > 0 and fused.norm_s(D * 4) > 0
    with pytest.raises(ValueError, match="two different"):
        calibrate_fused_norm(ranks, D, (1, 1))


def test_mistakes_name_what_is_needed() -> None:
    axis = Axis("tp", 0, 2, (0, 1), None, Recorder())
    with pytest.raises(ValueError, match="needs symmetric="):
        algorithms.run("all_reduce", torch.zeros(2), axis, transport="symmetric_memory")
    with pytest.raises(ValueError, match="no implementation all_gather.*symmetric_memory"):
        algorithms.run("all_gather", torch.zeros(2), axis, transport="symmetric_memory")
    other = SymmetricMemory.virtual(1, 64, "cpu")
    with pytest.raises(ValueError, match="axis of 2 ranks"):
        algorithms.run("all_reduce", torch.zeros(2), axis, transport="symmetric_memory", symmetric=other)
