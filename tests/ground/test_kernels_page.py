"""The page on the kernels, written from theory alone and from made-up measurements."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from shardlab.measure.record import append
from tests.compare.test_kernels import H100, ROWS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def kernels_page() -> ModuleType:
    """book/kernels_page.py, with its neighbours: scripts, in no package."""
    sys.path.insert(0, str(ROOT / "book"))
    try:
        spec = importlib.util.spec_from_file_location("kernels_page", ROOT / "book" / "kernels_page.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "book"))


def written(kernels_page: ModuleType, folder: Path, measurements: Path) -> str:
    page = folder / "book" / "kernels.md"
    page.parent.mkdir(parents=True)
    shutil.copy(ROOT / "book" / "kernels.md", page)
    kernels_page.write(page, measurements)
    return page.read_text()


@pytest.fixture(scope="module")
def unmeasured(kernels_page: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """-> (the folder that the page was written to, its text), where nothing has been measured."""
    folder = tmp_path_factory.mktemp("unmeasured")
    return folder, written(kernels_page, folder, folder / "none")


def test_without_a_measurement_it_says_so(kernels_page: ModuleType, unmeasured: tuple[Path, str]) -> None:
    _, text = unmeasured
    assert "No GPU has timed these kernels yet." in text
    assert "no number of a GPU of ours exists" in text and kernels_page.kernels_measured.COMMAND in text
    assert "${" not in text and "measured-" not in text


def test_every_picture_is_there_and_says_what_it_shows(unmeasured: tuple[Path, str]) -> None:
    folder, text = unmeasured
    images = re.findall(r"```\{image\} (\S+)\n:alt: (.+)\n", text)
    assert len(images) >= 9
    for name, alt in images:
        assert (folder / "book" / name).stat().st_size < 60_000
        assert len(alt) > 40 and alt.endswith(".")


def test_measured_rows_get_a_roofline_and_a_table(kernels_page: ModuleType, tmp_path: Path) -> None:
    append(tmp_path / "measured" / "kernels_h100.csv", ROWS, H100)
    text = written(kernels_page, tmp_path, tmp_path / "measured")
    assert "No GPU has timed" not in text and "no number of a GPU" not in text
    assert "### NVIDIA H100 80GB HBM3" in text
    assert "images/kernels/measured-0.png" in text
    assert "| `silu_mul` | 8192 x 14336 | 125\u00a0µs | 120\u00a0µs, torch.compile | 0.96 | 80% |" in text
    assert "| `flash_attention` | 8192 | 2.00\u00a0ms | – | – | 50% |" in text


def test_every_file_that_the_page_names_exists(unmeasured: tuple[Path, str]) -> None:
    named = set(re.findall(r"`(\w+\.py)`", unmeasured[1]))
    there = {path.name for path in (ROOT / "kernels" / "shardlab_kernels").glob("*.py")}
    assert len(named) > 10
    assert sorted(named - there) == []


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100_sxm"),
        ("NVIDIA H200", "h200_sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100_sxm_80gb"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_the_data_sheet_is_that_of_the_card(kernels_page: ModuleType, device: str, name: str | None) -> None:
    card = kernels_page.kernels_measured.card_of(device)
    assert (card.name if card else None) == name
