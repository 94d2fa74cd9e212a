"""The bench's table: it says what was wanted, survives a bench that breaks, and knows no time by heart."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import Row, __main__, overhead

ROWS = [Row("C7", "bytes | sent", "1.0001", "within 1 %", True), Row("", "context", "1.5x")]


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, rows: object) -> None:
    module = ModuleType(f"benchmarks.{name}")
    module.rows = rows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_rows_of_all_benches_in_order_and_a_broken_one_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Row]:
        raise RuntimeError("no such luck\nmore")

    stand_in(monkeypatch, "wire", lambda: ROWS)
    stand_in(monkeypatch, "speedup", broken)
    rows, num_broken = __main__.measure(["speedup", "wire"])
    assert rows == [Row("", "two ranks against one", "RuntimeError: no such luck", "", False), *ROWS]
    assert num_broken == 1


def test_markdown_can_be_pasted() -> None:
    assert __main__.as_markdown(ROWS, "Here").splitlines() == [
        "Here.",
        "",
        "| goal | what | measured | wanted | |",
        "|---|---|---|---|---|",
        "| bytes | bytes \\| sent | 1.0001 | within 1 % | met |",
        "|  | context | 1.5x |  |  |",
    ]
    assert "torch " in __main__.machine()


def test_an_unknown_bench_is_refused() -> None:
    import typer

    app = typer.Typer()
    app.command()(__main__.main)
    outcome = CliRunner().invoke(app, ["--only", "luck"])
    assert outcome.exit_code == 2
    assert f"--only luck; allowed: {', '.join(__main__.MODULES)}" in outcome.output


@pytest.mark.parametrize("seq", [1, 7])
def test_what_is_compared_is_the_same_maths(seq: int) -> None:
    with torch.inference_mode():
        for ours, *contenders in (overhead.mlp(seq), overhead.attention(seq)):
            assert len(contenders) == 2
            for contender in contenders:
                torch.testing.assert_close(ours(), contender(), atol=1e-5, rtol=1e-4)
