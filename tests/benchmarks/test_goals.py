"""The list of goals: every row of every bench names one that is in it, and the table says its name in words."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from benchmarks import Row, __main__
from benchmarks.goals import goals, name_of

BENCHES = Path(__main__.__file__).parent
KEY = re.compile(r"[CFGM]\d+|plan")


def keys_in(path: Path) -> set[str]:
    """Every text in a bench that looks like a goal's key."""
    texts = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
    return {text for text in texts if isinstance(text, str) and KEY.fullmatch(text)}


@pytest.mark.parametrize("bench", __main__.MODULES)
def test_a_bench_decides_the_goals_that_say_so(bench: str) -> None:
    assert keys_in(BENCHES / f"{bench}.py") == {key for key, goal in goals().items() if goal.bench == bench}


def test_a_goal_is_decided_by_a_bench_that_exists_or_by_none_yet() -> None:
    assert {goal.bench for goal in goals().values()} - {*__main__.MODULES, "kernels", ""} == set()
    assert all(KEY.fullmatch(key) and goal.what and goal.least for key, goal in goals().items())
    names = [goal.name for goal in goals().values()]
    assert len(set(names)) == len(names)


def test_the_table_names_a_goal_in_words() -> None:
    text = __main__.as_markdown([Row("C8", "first start", "2.5x", ">= 3x", False), Row("", "context", "1 s")], "Here")
    assert "| start of ranks | first start | 2.5x | >= 3x | NOT MET |" in text and "|  | context" in text
    with pytest.raises(KeyError, match="C99"):
        name_of("C99")


def test_the_page_uses_the_same_names() -> None:
    page = (BENCHES.parent / "book" / "benchmarks.md").read_text()
    first = {line.split("|")[1].strip() for line in page.splitlines() if re.match(r"\| .* \| (met|NOT MET) \|$", line)}
    assert first - {goal.name for goal in goals().values()} == set() and len(first) > 10
