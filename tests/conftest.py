"""What every test stands on: no network for models, no screen, Triton's interpreter without a GPU.

The variables are set here, at import, before any test module imports triton or transformers. Processes that a
test starts inherit them. tests/launch has a pool of its own, which it breaks.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from shardlab import Ranks


def has_gpu() -> bool:
    """Whether torch can use a CUDA device. torch is only asked where a driver's device file is there."""
    if not any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg")):
        return False
    import torch

    return torch.cuda.is_available()


HAS_GPU = has_gpu()

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"

# A shell starts background jobs deaf to SIGINT, and children inherit that. Tests that press Stop need it heard.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if HAS_GPU:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and this machine has none"))


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Four warm ranks for all tests; a plan smaller than four runs on the first of them."""
    from shardlab import Ranks

    with Ranks(4) as pool:
        yield pool
