"""The page on the architecture: drawn from the contract, made of docstrings, and true of a rank's own stack."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import traceback
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest

from shardlab import Plan, Ranks
from shardlab.comm.mesh import Mesh
from shardlab.programs import tensor
from tests.ground.test_layering import MOST_LINES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def architecture() -> Iterator[ModuleType]:
    """book/architecture_page.py, with its neighbours: scripts, in no package."""
    sys.path.insert(0, str(ROOT / "book"))
    try:
        yield importlib.import_module("architecture_page")
    finally:
        sys.path.remove(str(ROOT / "book"))


@pytest.fixture
def page(architecture: ModuleType, tmp_path: Path) -> Path:
    target = tmp_path / "book" / "architecture.md"
    target.parent.mkdir()
    shutil.copy(ROOT / "book" / "architecture.md", target)
    architecture.write(target)
    return target


def test_every_room_is_there_with_a_file_to_start_with(page: Path) -> None:
    text = page.read_text()
    assert "${" not in text
    packages = {path.parent.name for path in (ROOT / "src" / "shardlab").glob("*/__init__.py")}
    sections = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert {section.replace("\\", "") for section in sections} == packages | {"benchmarks", "shardlab_kernels"}
    for link in re.findall(r"\{download\}`\S+ <(.+?)>`", text):
        assert (page.parent / link).is_file(), link


def test_the_picture_has_the_floors_of_the_contract(architecture: ModuleType, page: Path) -> None:
    picture = ET.fromstring((page.parent / "images" / "house.svg").read_text())
    assert picture.get("role") == "img"
    (described,) = (one.text or "" for one in picture.iter() if one.get("id") == "house-desc")
    names = [one for one in picture.iter() if one.get("font-weight") == "600"]
    height_of = {one.text: float(one.get("y", "0")) for one in names}
    floors = architecture.floors()
    assert list(height_of) == [room for floor in floors for room in floor]
    heights = [{height_of[room] for room in floor} for floor in floors]
    assert all(len(floor) == 1 for floor in heights) and heights == sorted(heights, key=max)
    assert all(room and room in described for room in height_of)
    sizes = [float(size) for one in picture.iter() if (size := one.get("font-size"))]
    assert min(sizes) * 340 / 400 >= 9, "on a phone of 390 px the picture is about 340 wide"


def test_a_room_that_says_nothing_of_itself_is_named(architecture: ModuleType, tmp_path: Path) -> None:
    room = tmp_path / "src" / "shardlab" / "attic"
    room.mkdir(parents=True)
    (room / "__init__.py").write_text("")
    with pytest.raises(ValueError, match="attic.* has no docstring: say what is in the room"):
        architecture.room_of("attic", tmp_path)
    (room / "__init__.py").write_text('"""An attic."""')
    with pytest.raises(ValueError, match="START=None is no file in .*; name the one to start reading with"):
        architecture.room_of("attic", tmp_path)


def test_the_page_says_the_limit_that_is_held(architecture: ModuleType) -> None:
    assert architecture.MOST_LINES == MOST_LINES


def test_a_frame_that_is_gone_ends_the_build(architecture: ModuleType) -> None:
    for file, name, _ in architecture.WAY:
        assert architecture.source_of(ROOT / file, name).startswith("def ")
    with pytest.raises(ValueError, match=r"linear\.py has no RowParallelLinear\.sideways"):
        architecture.source_of(ROOT / "src/shardlab/layers/linear.py", "RowParallelLinear.sideways")


def stack_in_torch(mesh: Mesh) -> list[tuple[str, str]]:
    """(file, function) of every frame of ours, outermost first, when a rank's MLP has reached torch.distributed."""
    seen: list[traceback.StackSummary] = []
    with mock.patch("torch.distributed.all_reduce", lambda *args, **more: seen.append(traceback.extract_stack())):
        tensor.mlp_forward(mesh)
    return [(frame.filename, frame.name) for frame in seen[0] if "/shardlab/" in frame.filename]


def test_the_way_of_one_tensor_is_the_stack_of_a_rank(architecture: ModuleType, ranks: Ranks) -> None:
    stack = ranks.run(stack_in_torch, plan=Plan(tp=2), check=False)[0]
    here = [(Path(file).relative_to(ROOT).as_posix(), name) for file, name in stack if Path(file).is_relative_to(ROOT)]
    at = here.index(("src/shardlab/launch/boot.py", "_serve"))
    said = [(file, name.rpartition(".")[2]) for file, name, _ in architecture.WAY[1:]]  # Ranks.run is in the notebook
    assert here[at:] == said
