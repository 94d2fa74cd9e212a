"""The bench of decode, which is timed on a GPU: on a CPU, that its contenders compute the same, and that it says so."""

from __future__ import annotations

import pytest
import torch

from benchmarks import decode
from shardlab.comm.mesh import Mesh
from shardlab.programs.serve import random_model
from shardlab.theory.transformer import Shape
from shardlab_kernels.int4 import Int4Weight

SHAPE = Shape(num_layers=2, d_model=64, d_ff=128, num_heads=4, num_kv_heads=2, head_dim=16, vocab_size=101)


def test_without_a_gpu_no_number_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [(row.goal, row.measured, row.met) for row in decode.rows()] == [
        (goal, "not measured: no GPU here", None) for goal in ("G14", "G15", "G16")
    ]


def test_contenders_take_the_same_step() -> None:
    model = random_model(SHAPE, Mesh.single(), torch.float32)
    torch.manual_seed(1)
    ours = decode.decoder_step(model, 9, calls=4)
    torch.manual_seed(1)  # the same random cache
    rival = decode.torch_step(model, 8)
    torch.testing.assert_close(rival(), rival())
    assert ours().shape == rival().shape == (1, 101)
    assert torch.isfinite(decode.layers_step(model, 8)()).all()


def test_int4_weights_take_the_place_of_all_linear_layers() -> None:
    model = random_model(SHAPE, Mesh.single(), torch.float32)
    before = decode.torch_step(model, 8)
    torch.manual_seed(1)
    wanted = before()
    decode.keep_int4(model, 32)
    held = [m.local_weight for m in model.modules() if isinstance(getattr(m, "local_weight", None), Int4Weight)]
    assert len(held) == 2 * 7
    torch.testing.assert_close(before(), wanted, atol=0.1, rtol=0.1)


def test_every_goal_gets_a_row() -> None:
    rows = decode.rows_on(torch.device("cpu"), SHAPE, 8, rounds=2, steps=1, group=32)
    assert [row.goal for row in rows] == ["G14", "G15", "G16", "", ""]
    assert all(row.measured and "%" in row.measured + row.wanted or "x" in row.wanted for row in rows[:3])
