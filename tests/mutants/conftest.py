"""The line that says how many mutants were run, and how many of those were noticed."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.mutants.table import MUTANTS

_outcomes: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and "test_mutants.py::test_a_mistake_is_noticed" in report.nodeid:
        _outcomes[report.outcome] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _outcomes:
        killed, run = _outcomes["passed"], _outcomes.total()
        terminalreporter.write_line(f"mutants: {killed} of {run} noticed, {run} of {len(MUTANTS)} run")
