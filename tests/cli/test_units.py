"""Sizes and times as people type them."""

from __future__ import annotations

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab.cli.units import seconds, size_bytes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4096", 4096),
        ("12B", 12),
        ("1K", 1024),
        ("1k", 1024),
        ("64M", 64 << 20),
        ("1G", 1 << 30),
        ("1.5 MiB", 3 << 19),
        ("1KB", 1000),
        (" 2GB ", 2_000_000_000),
        ("1KiB", 1024),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert size_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("50ms", 0.05), ("2s", 2.0), ("300us", 3e-4), ("300µs", 3e-4), ("5 ns", 5e-9), ("1.5min", 90.0), ("1h", 3600.0)],
)
def test_times(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "K", "-1K", "1X", "1e3", "nan", "inf", "1 K B", "0", "0.3", "1.0001K", "9" * 400])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="allowed: "):
        size_bytes(text)


@pytest.mark.parametrize("text", ["", "50", "ms", "-5ms", "1 parsec", "nan s", "9" * 400 + "s"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="allowed: a number with ns, us, ms, s, min or h, like 50ms"):
        seconds(text)


def test_no_time_at_all_is_none() -> None:
    with pytest.raises(typer.BadParameter, match="'0ms': a time above 0 is needed"):
        seconds("0ms")


@given(st.text(max_size=12))
@settings(max_examples=100, derandomize=True)
def test_any_text_is_a_number_or_a_mistake(text: str) -> None:
    for parse in (size_bytes, seconds):
        try:
            assert parse(text) > 0
        except typer.BadParameter:
            pass
