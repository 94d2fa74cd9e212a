"""A warm pool of ranks for each world size in turn, a reference for each family, and the line that says what ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from shardlab import Ranks
from tests.lattice.points import legal
from tests.model.tiny import CASES, Reference, build

MOST_ROWS, PROMPT, NEW_TOKENS = 7, 9, 4  # an odd prompt, longer than Mistral's window of 7

_outcomes: Counter[str] = Counter()


@pytest.fixture(scope="package")
def pool() -> Iterator[Callable[[int], Ranks]]:
    """World size -> warm ranks. One pool at a time: the points come sorted by world size."""
    warm: list[Ranks] = []

    def of(world_size: int) -> Ranks:
        if not warm or warm[0].world_size != world_size:
            close()
            warm.append(Ranks(world_size))
        return warm[0]

    def close() -> None:
        if warm:
            warm.pop().close()

    yield of
    close()


@pytest.fixture(scope="package")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """Family -> its folder, and transformers' logits and tokens for as many rows as any plan takes."""
    built: dict[str, Reference] = {}

    def get(family: str) -> Reference:
        if family not in built:
            sizes = {"batch": MOST_ROWS, "prompt": PROMPT, "new_tokens": NEW_TOKENS}
            built[family] = build(CASES[family], tmp_path_factory.mktemp(family), **sizes)
        return built[family]

    return get


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and "test_conformance.py::test_a_point" in report.nodeid:
        _outcomes[report.outcome] += 1
        _outcomes["measured"] += dict(report.user_properties).get("measured") is True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _outcomes:
        run = _outcomes["passed"] + _outcomes["failed"]
        terminalreporter.write_line(
            f"lattice: {run} of {len(legal())} legal plans run, {_outcomes['failed']} failed; "
            f"the wire was read in {_outcomes['measured']}"
        )
