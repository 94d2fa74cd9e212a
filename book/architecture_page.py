"""The architecture as a page: the build fills the ${...} of book/architecture.md and draws the house beside it.

The order is the `layers` contract of pyproject.toml, what is in a room is its package's own docstring, and the frames
of "the way of one tensor" are read from the source. A name that is no longer there ends the build.
"""

from __future__ import annotations

import ast
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import house_picture
from ledger_page import escape

ROOT = Path(__file__).resolve().parent.parent
TORCH_FREE = "Theory, comparison and pictures never load torch or a rank"
MOST_LINES = 250  # tests/ground/test_layering.py holds it

# Where to start reading in a room: the file that the others are read from.
START = {
    "benchmarks": "__main__.py",
    "cli": "run.py",
    "check": "trial.py",
    "viz": "style.py",
    "compare": "tables.py",
    "sweep": "driver.py",
    "programs": "tensor.py",
    "launch": "pool.py",
    "model": "transformer.py",
    "layers": "linear.py",
    "parallel": "pipeline.py",
    "algorithms": "ring.py",
    "ops": "dispatch.py",
    "comm": "collectives.py",
    "measure": "timer.py",
    "topology": "read.py",
    "theory": "degrees.py",
    "shardlab_kernels": "rms_norm.py",
}

# (file, function, what it does), from the cell to the library.
WAY = [
    ("src/shardlab/launch/pool.py", "Ranks.run", "sends the program to every rank, and waits for their answers"),
    ("src/shardlab/launch/boot.py", "_serve", "is the loop in which a rank takes one program after another"),
    ("src/shardlab/programs/tensor.py", "mlp_forward", "is the program: what every rank runs"),
    ("src/shardlab/layers/mlp.py", "MLP.forward", "splits the wide middle: columns first, then rows"),
    ("src/shardlab/layers/linear.py", "RowParallelLinear.forward", "multiplies its rows, and has a part of the sum"),
    ("src/shardlab/layers/linear.py", "reduce_partial", "asks for the sum, and adds the bias once"),
    ("src/shardlab/comm/collectives.py", "all_reduce", "adds up the parts, and writes down what was sent"),
]


@dataclass(frozen=True)
class Room:
    """One package: what it says of itself, where to start, and its size."""

    name: str
    folder: Path
    about: str
    files: int
    lines: int

    @property
    def caption(self) -> str:
        """The first words of the docstring: up to the first stop, colon or comma that ends a thought."""
        return re.split(r"[.:;](?:\s|$)", " ".join(self.about.split()))[0]


def contracts(root: Path = ROOT) -> list[dict[str, Any]]:
    return tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def floors(root: Path = ROOT) -> list[list[str]]:
    """The rooms of each floor that are there, from the roof to the ground, without `shardlab.` before them."""
    (layers,) = (contract["layers"] for contract in contracts(root) if contract["type"] == "layers")
    named = [[room.strip(" ()").removeprefix("shardlab.") for room in re.split(r"[|:]", floor)] for floor in layers]
    there = [[room for room in floor if (folder_of(room, root) / "__init__.py").is_file()] for floor in named]
    return [floor for floor in there if floor]


def folder_of(room: str, root: Path = ROOT) -> Path:
    return {"benchmarks": root / "benchmarks", "shardlab_kernels": root / "kernels" / "shardlab_kernels"}.get(
        room, root / "src" / "shardlab" / room
    )


def room_of(name: str, root: Path = ROOT) -> Room:
    """Raises ValueError where the package says nothing of itself, or the file to start with is not there."""
    folder = folder_of(name, root)
    about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    if not about:
        raise ValueError(f"{folder / '__init__.py'} has no docstring: say what is in the room")
    if not (folder / START.get(name, "")).is_file():
        raise ValueError(
            f"{name}: START={START.get(name)!r} is no file in {folder}; name the one to start reading with"
        )
    files = list(folder.rglob("*.py"))
    return Room(name, folder, about, len(files), sum(len(path.read_text().splitlines()) for path in files))


def myst(text: str) -> str:
    """A docstring as MyST: what stands in backticks is code, and everything else is shown as it is."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        parts = re.split(r"(`[^`]+`)", " ".join(paragraph.split()))
        paragraphs.append("".join(part if part.startswith("`") else _escaped(part) for part in parts))
    return "\n\n".join(paragraphs)


def _escaped(text: str) -> str:
    """ledger_page.escape keeps no space at the ends."""
    before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :] if text.strip() else ""
    return before + escape(text) + after


def link(path: Path, target: Path, text: str) -> str:
    """A link to a file of the source, which the book takes along. `target` is the page."""
    return "{download}`" + f"{text} <{os.path.relpath(path, target.parent)}>`"


def rooms_text(target: Path, root: Path = ROOT) -> str:
    parts = []
    for name in (room for floor in reversed(floors(root)) for room in floor):
        room = room_of(name, root)
        start = link(room.folder / START[name], target, START[name])
        size = f"{room.files} files, {room.lines:,} lines"
        parts.append(f"### {escape(room.name)}\n\n{myst(room.about)}\n\nStart with {start} ({size}).")
    return "\n\n".join(parts)


def source_of(path: Path, name: str) -> str:
    """The source of a function or of a class's method, such as "MLP.forward". Raises ValueError where there is none."""
    text = path.read_text()
    body: list[ast.stmt] = ast.parse(text).body
    node: ast.stmt | None = None
    for part in name.split("."):
        node = next((one for one in body if getattr(one, "name", None) == part), None)
        if node is None:
            raise ValueError(f"{path} has no {name}: the way of one tensor goes elsewhere now")
        body = getattr(node, "body", [])
    assert node is not None and node.end_lineno is not None
    lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[indent:] for line in lines)


def way_text(target: Path, root: Path = ROOT) -> str:
    """The frames as a numbered list, each with its source folded."""
    parts = ["1. A cell of {doc}`lab 03 </labs/03_tensor>` calls `ranks.run(program, plan=Plan(tp=4))`."]
    if not list((target.parent.parent / "labs").glob("03_tensor.ipynb")):
        parts = ["1. A cell of lab 03 calls `ranks.run(program, plan=Plan(tp=4))`."]
    for number, (file, name, does) in enumerate(WAY, start=2):
        shown = link(root / file, target, Path(file).relative_to("src/shardlab").as_posix())
        code = source_of(root / file, name)
        block = "\n".join(["::::{dropdown} " + name, "```python", code, "```", "::::"])
        folded = "\n".join(f"   {line}".rstrip() for line in block.splitlines())
        parts.append(f"{number}. `{name}` {does} ({shown}).\n\n{folded}")
    parts.append(f"{len(WAY) + 2}. `torch.distributed.all_reduce`: gloo, or NCCL.")
    return "\n\n".join(parts)


def nevers_text(root: Path = ROOT) -> str:
    return "\n".join(f"- {escape(one['name'])}." for one in contracts(root) if one["type"] == "forbidden")


def write(target: Path, root: Path = ROOT) -> None:
    """Fill the page at `target`, and put the picture into images/ beside it."""
    order = floors(root)
    captions = {name: room_of(name, root).caption for floor in order for name in floor}
    (free,) = (one["source_modules"] for one in contracts(root) if one["name"] == TORCH_FREE)
    without_torch = {name.removeprefix("shardlab.") for name in free}
    images = target.parent / "images"
    images.mkdir(exist_ok=True)
    (images / "house.svg").write_text(house_picture.draw(order, captions, without_torch))
    text = Template(target.read_text()).substitute(
        rooms=rooms_text(target, root), way=way_text(target, root), nevers=nevers_text(root), most_lines=MOST_LINES
    )
    target.write_text(text)
