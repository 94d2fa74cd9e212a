"""Every lab keeps the rules of hygiene.py, and every rule can be broken."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ground.hygiene import load, problems

ROOT = Path(__file__).resolve().parents[2]
LABS = sorted((ROOT / "labs").glob("*.ipynb"))

CLEAN: dict[str, Any] = {
    "cells": [
        {"cell_type": "markdown", "metadata": {}, "source": "# Lab\n\n<https://arxiv.org/>, and/or"},
        {
            "cell_type": "code",
            "metadata": {},
            "source": "1 + 1",
            "execution_count": 1,
            "outputs": [{"output_type": "execute_result", "data": {"text/plain": "2"}, "metadata": {}}],
        },
    ],
    "metadata": {"kernelspec": {"name": "python3"}, "language_info": {"name": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}  # fmt: skip


@pytest.mark.parametrize("path", LABS, ids=[path.stem for path in LABS])
def test_lab_is_clean(path: Path) -> None:
    assert list(problems(load(path))) == []


def test_the_example_is_clean() -> None:
    assert list(problems(CLEAN)) == []


def code(key: str, value: Any) -> Callable[[dict], None]:
    return lambda notebook: notebook["cells"][1].update({key: value})


def output(**data: str) -> Callable[[dict], None]:
    kind = {"text_html": "text/html", "text_plain": "text/plain"}
    return code(
        "outputs",
        [{"output_type": "display_data", "data": {kind[k]: v for k, v in data.items()}, "metadata": {}}],
    )


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (code("outputs", []), "no outputs"),
        (code("execution_count", None), "no execution count"),
        (code("execution_count", 7), "run it from the top"),
        (code("source", ""), "empty cell"),
        (code("source", "\n".join(f"x{i} = {i}" for i in range(15))), "15 lines"),
        (code("source", "!curl example.org"), "shell command"),
        (code("source", "%pip install x"), "shell command"),
        (code("source", "%%bash\nls"), "shell command"),
        (code("source", "class Model:\n    pass"), "defines a class"),
        (code("source", "import torch.distributed as dist"), "torch.distributed"),
        (code("source", "open('/home/me/x')"), "absolute path"),
        (output(text_html="<script src='https://cdn.example/x.js'></script>"), "from the network"),
        (output(text_html='<img src="//cdn.example/x.png">'), "from the network"),
        (output(text_plain="File /root/project/x.py"), "absolute path"),
        (
            code("outputs", [{"output_type": "error", "ename": "E", "evalue": "", "traceback": []}]),
            "in an error",
        ),
        (output(text_plain="x" * 1_000_001), "larger than"),
        (lambda n: n["metadata"]["language_info"].update(version="3.11.7"), "names a Python version"),
        (lambda n: n["metadata"]["kernelspec"].update(name="conda-env-x"), "not python3"),
    ],
)
def test_every_rule_can_be_broken(spoil: Callable[[dict], None], said: str) -> None:
    notebook = copy.deepcopy(CLEAN)
    spoil(notebook)
    found = list(problems(notebook))
    assert len(found) == 1 and said in found[0]


def test_an_exercise_may_use_torch_distributed() -> None:
    notebook = copy.deepcopy(CLEAN)
    notebook["cells"][1].update(source="import torch.distributed as dist", metadata={"tags": ["exercise"]})
    assert list(problems(notebook)) == []
