"""observe: bytes from the wire where the kernel shows them, else from the record, and it says which."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shardlab import Plan, Ranks
from shardlab.launch import wire
from shardlab.launch.observe import agrees, observe
from shardlab.programs import tensor
from shardlab.theory import collectives


def test_without_counters_the_record_is_shown_and_said(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(pids: object) -> None:
        raise wire.WireUnavailable("no counters in this test")

    monkeypatch.setattr(wire, "snapshot", refuse)
    run = observe(ranks, tensor.all_reduce, 4 << 20, plan=Plan(tp=3))
    assert run.source == "recorded"
    assert "no counters in this test" in capsys.readouterr().out
    expected = np.array(collectives.traffic_matrix("all_reduce", 4 << 20, 3))
    assert np.abs(run.traffic - expected).max() <= 1
    assert agrees(run)


@pytest.mark.skipif(not wire.available()[0], reason="the kernel's socket counters cannot be read here")
def test_counters_that_do_not_come_to_rest_are_not_believed(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = wire.snapshot
    monkeypatch.setattr(wire, "snapshot", lambda pids: replace(honest(pids), settled=False))
    assert observe(ranks, tensor.all_reduce, 4 << 20, plan=Plan(tp=2)).source == "recorded"
    assert "still moving" in capsys.readouterr().out


@pytest.mark.skipif(not wire.available()[0], reason="the kernel's socket counters cannot be read here")
@pytest.mark.parametrize("degree", [2, 3, 4])
def test_the_wire_agrees_with_the_formula(ranks: Ranks, degree: int) -> None:
    run = observe(ranks, tensor.all_reduce, 4 << 20, plan=Plan(tp=degree))
    assert run.source == "on the wire"
    assert agrees(run)
    assert not agrees(run, within=1e-9)  # framing is on the wire too: the counters did read something real
