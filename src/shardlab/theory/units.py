"""Numbers for people: bytes, seconds and bandwidths as text. The one place that chooses units."""

from __future__ import annotations


def bytes_text(num_bytes: float) -> str:
    """Powers of two: 28672 -> '28.0 KiB', 1048576 -> '1.00 MiB'. Below 1 KiB: whole bytes, '12 B'."""
    return _scaled(num_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def decimal_bytes_text(num_bytes: float) -> str:
    """Powers of ten, as data sheets and model cards count: 141.1e9 -> '141 GB'."""
    return _scaled(num_bytes, 1000, ("B", "kB", "MB", "GB", "TB"))


def seconds_text(seconds: float) -> str:
    """6.4e-8 -> '64.0 ns', 0.00527 -> '5.27 ms'."""
    if seconds == 0:
        return "0 s"
    for factor, unit in ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms")):
        if abs(seconds) < 999.5 * factor:
            return f"{_three_digits(seconds / factor)} {unit}"
    return f"{_three_digits(seconds)} s"


def bandwidth_text(bandwidth_Bps: float) -> str:
    """Bytes a second in powers of ten: 450e9 -> '450 GB/s'."""
    return decimal_bytes_text(bandwidth_Bps) + "/s"


def quantity_text(value: float, unit: str) -> str:
    """A value in the unit that fits: 'bytes' (exact, with separators), 's', 'B/s', 'FLOP'; else as it is."""
    if unit in ("bytes", "B"):
        whole = round(value)
        return f"{whole:,} B" if whole == value else f"{value:,.1f} B"
    if unit == "s":
        return seconds_text(value)
    if unit == "B/s":
        return bandwidth_text(value)
    if value == round(value) and abs(value) < 1e15:
        return f"{round(value):,} {unit}".strip()
    return f"{_three_digits(value)} {unit}".strip()


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    scaled, index = float(value), 0
    while index < len(units) - 1 and abs(scaled) >= base * 0.9995:
        scaled, index = scaled / base, index + 1
    if index == 0:
        return f"{scaled:.0f} {units[0]}"
    return f"{_three_digits(scaled)} {units[index]}"


def _three_digits(value: float) -> str:
    magnitude = abs(value)
    if magnitude >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if magnitude >= 9.995 else f"{value:.2f}"
