"""Which model the user means: a name that can be fetched, a folder, or a GGUF file. Found out without torch."""

from __future__ import annotations

import json
from pathlib import Path

from shardlab.cli.plain import Mistake
from shardlab.theory.degrees import Plan
from shardlab.theory.per_rank import check_plan
from shardlab.theory.transformer import MODELS, Shape

FETCHABLE = {"smollm2": "smollm2-135m"}  # name on the command line -> its Shape in theory


def check(model: str, plan: Plan, *, int4: bool = False) -> None:
    """Raises Mistake where there is no such model, or none with 4-bit weights; ValueError for a plan it cannot have."""
    if model in FETCHABLE:
        check_plan(MODELS[FETCHABLE[model]], plan)
        return
    path = Path(model).expanduser()
    if not path.exists():
        names = ", ".join(FETCHABLE)
        raise Mistake(f"--model {model}: no such file or folder; allowed: {names}, a Hugging Face folder, a .gguf file")
    if path.is_dir() and int4:
        raise Mistake(f"--int4 with --model {model}: safetensors hold no 4-bit blocks; allowed: smollm2, a .gguf file")
    if path.is_dir():
        _check_heads(path, plan.tp)


def check_fetchable(name: str) -> None:
    """Raises Mistake for a name that cannot be fetched."""
    if name not in FETCHABLE:
        raise Mistake(f"unknown model {name!r}; allowed: {', '.join(FETCHABLE)}")


def locate(model: str) -> Path:
    """The model's folder or file; fetched first if it is one that can be and is not here yet. Loads torch."""
    if model in FETCHABLE:
        from shardlab.model.checkpoint.fetch import fetch

        return fetch(model)
    return Path(model).expanduser()


def check_shape(shape: Shape, plan: Plan, max_tokens: int, max_positions: int) -> None:
    """The same for a model whose description has been read. Raises ValueError."""
    check_plan(shape, plan)
    if max_tokens >= max_positions:
        raise Mistake(f"--max-tokens {max_tokens}: the model has {max_positions} positions, the prompt's included")


def _check_heads(folder: Path, tp: int) -> None:
    """A first look at config.json: the rest of it is the model reader's to judge."""
    config = folder / "config.json"
    if not config.is_file():
        raise Mistake(f"--model {folder}: there is no config.json in it; a Hugging Face model folder has one")
    try:
        heads = json.loads(config.read_text(encoding="utf-8")).get("num_attention_heads")
    except (ValueError, AttributeError):
        raise Mistake(f"{config}: not a JSON object") from None
    if isinstance(heads, int) and 0 < heads < tp:
        raise Mistake(f"--tp {tp}: the model has num_heads={heads}, and a rank needs at least one; allowed: 1..{heads}")
