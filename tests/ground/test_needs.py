"""The marks that say what a test needs: the rule finds it, and who starts ranks without the mark is stopped."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardlab.launch.client import Server
from tests import needs


@pytest.fixture
def pool() -> Iterator[str]:
    yield "Ranks(4)"  # this is what the rule looks for; nothing is started


def test_a_fixture_that_starts_ranks_gives_the_mark(request: pytest.FixtureRequest, pool: str) -> None:
    assert needs.marks_of(request.node) == {"ranks"} and request.node.get_closest_marker("ranks")


def test_a_test_without_them_has_no_mark(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    assert needs.marks_of(request.node) == set()


def test_a_folder_gives_the_mark() -> None:
    assert needs.unwanted(needs.HERE / "kernels", "not ranks and not kernels and not slow")
    assert not needs.unwanted(needs.HERE / "kernels", "not ranks")
    assert not needs.unwanted(needs.HERE / "theory", "not ranks and not kernels and not slow")


def test_who_starts_ranks_without_the_mark_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"this test starts ranks, and has no mark that says so: see needs\.py"):
        Server()


@pytest.mark.parametrize("way", ["torch", "kernels"])
def test_of_several_ways_the_case_says_which_interprets(request: pytest.FixtureRequest, way: str) -> None:
    assert "ops.interpreted("  # what the rule finds in the source of a test that goes both ways
    assert needs.marks_of(request.node) == ({"kernels"} if way == "kernels" else set())
