"""theory.hardware: every number has a unit, a source and, for bandwidths, a direction."""

from __future__ import annotations

from typing import Any

import pytest

from shardlab.theory.hardware import accelerator, catalogue, link


def numbers() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (f"{table}.{name}", field, value)
        for table, entries in catalogue().items()
        for name, entry in entries.items()
        for field, value in entry.items()
        if isinstance(value, dict)
    ]


@pytest.mark.parametrize(("name", "field", "number"), numbers(), ids=lambda value: str(value)[:24])
def test_every_number_has_a_source(name: str, field: str, number: dict[str, Any]) -> None:
    assert number["value"] > 0, name
    assert len(number["source"]) > 20, name
    assert "date" in number, name
    assert number["unit"] in ("B", "B/s", "s", "FLOP/s"), name
    assert field.endswith("_s") == (number["unit"] == "s"), name
    if name.startswith("link."):
        assert number["direction"].startswith(("each way", "one step")), name


def test_everything_in_the_catalogue_loads() -> None:
    for name in catalogue()["link"]:
        assert link(name).bandwidth_Bps > 0
    for name in catalogue()["accelerator"]:
        assert accelerator(name).link.bandwidth_Bps > 0


def test_h100() -> None:
    h100 = accelerator("h100_sxm")
    assert (h100.memory_bytes, h100.hbm_Bps, h100.bf16_flops) == (80e9, 3.35e12, 989.4e12)
    assert h100.link.bandwidth_Bps == 450e9
    assert h100.link.alpha_s == pytest.approx(0.6e-6)


def test_an_unknown_name_lists_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="'h200'.*h100_sxm"):
        accelerator("h200")
    with pytest.raises(ValueError, match="'nvlink'.*nvlink4"):
        link("nvlink")
