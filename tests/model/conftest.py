"""One reference a tiny model, and one real model, for the folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shardlab.model.checkpoint.fetch import fetch
from tests.model.tiny import CASES, Reference, build


@pytest.fixture(scope="package")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """Name of a tiny model -> its folder and what transformers says of it. Each is built once."""
    built: dict[str, Reference] = {}

    def get(name: str) -> Reference:
        if name not in built:
            built[name] = build(CASES[name], tmp_path_factory.mktemp(name))
        return built[name]

    return get


@pytest.fixture(scope="package")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file, fetched once and kept in the user's cache."""
    return fetch("smollm2")
