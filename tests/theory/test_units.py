"""theory.units: numbers as text, three digits, the unit that fits."""

from __future__ import annotations

import pytest

from shardlab.theory import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (12, "12 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (28672, "28.0 KiB"),
        (2**20, "1.00 MiB"),
    ],
)
def test_binary_bytes(value: float, text: str) -> None:
    assert units.bytes_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(999, "999 B"), (1e3, "1.00 kB"), (141.1e9, "141 GB")])
def test_decimal_bytes(value: float, text: str) -> None:
    assert units.decimal_bytes_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (6.37e-8, "63.7 ns"),
        (7.8e-6, "7.80 µs"),
        (9.999e-4, "1.00 ms"),
        (5.265e-3, "5.26 ms"),
        (2, "2.00 s"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert units.seconds_text(value) == text


def test_quantities() -> None:
    assert units.quantity_text(28672, "bytes") == "28,672 B"
    assert units.quantity_text(1.5, "bytes") == "1.5 B"
    assert units.quantity_text(450e9, "B/s") == "450 GB/s"
    assert units.quantity_text(1e-3, "s") == "1.00 ms"
    assert units.quantity_text(61, "all-reduces") == "61 all-reduces"
    assert units.quantity_text(0.125, "") == "0.12"
