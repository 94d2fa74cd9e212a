"""measure.journal: only rounds that every rank has finished count, and progress is in seconds of work."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardlab.measure.journal import Journal


def test_a_round_counts_when_its_last_rank_has_written(tmp_path: Path) -> None:
    kernel = Journal(tmp_path / "j", 2, 1, 3, create=True)
    first, second = (Journal(tmp_path / "j", 2, 1, 3) for _ in range(2))
    first.write(0, 0, 0, 1.0)
    assert kernel.stats(0) is None
    second.write(1, 0, 0, 4.0)
    first.write(0, 0, 1, 2.0)
    stats = kernel.stats(0)
    assert stats is not None and stats.samples_s == (4.0,)  # the slowest rank's
    second.write(1, 0, 1, 0.5)
    again = kernel.stats(0)
    assert again is not None and again.samples_s == (4.0, 2.0)


def test_progress_weighs_cells_by_what_they_cost(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", 1, 2, 2, create=True)
    assert journal.progress([1.0, 9.0]) == (0.0, 20.0)
    journal.expect(0, 1, 4.0)
    journal.write(0, 0, 0, 123.0)
    assert journal.progress([1.0, 9.0]) == (1.0, 10.0)
    journal.write(0, 1, 0, 123.0)
    journal.write(0, 1, 1, 123.0)
    assert journal.progress([1.0, 9.0]) == pytest.approx((9.0, 10.0))
