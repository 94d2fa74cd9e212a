"""`shardlab doctor` says what is joined to what."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from shardlab import topology
from shardlab.cli import app
from shardlab.cli import examine as doctor


def test_doctor_prints_the_topology_after_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOOKS", {"Python": doctor.LOOKS["Python"]})
    printed = CliRunner().invoke(app, ["doctor"]).stdout
    section = printed.partition("\ntopology\n")[2]
    told = " ".join(section.split())
    for line in topology.describe(topology.read()):
        assert line in told
    assert "lo (loopback)" in told and "Ready." in told


def test_doctor_survives_a_topology_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no such machine")

    monkeypatch.setattr(topology, "read", broken)
    assert doctor.topology() == ["could not be read: RuntimeError: no such machine"]
