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

import hypothesis
import pytest

from tests import needs

if TYPE_CHECKING:
    from shardlab import Ranks


def has_gpu() -> bool:
    """Whether torch can use a CUDA device. torch is only asked where a driver's device file is there."""
    if not any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg")):
        return False
    import torch

    return torch.cuda.is_available()


HAS_GPU = has_gpu()
NO_GPU = "needs a CUDA device, and this machine has none"
_other_skips: list[str] = []

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
if "PYTEST_XDIST_WORKER" in os.environ:  # there is a worker a core: more threads would only take turns
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"

# A shell starts background jobs deaf to SIGINT, and children inherit that. Tests that press Stop need it heard.
signal.signal(signal.SIGINT, signal.default_int_handler)

needs.watch()
# A busy machine makes an example slow, not wrong; and what CI tries is what everybody tries.
hypothesis.settings.register_profile("shardlab", deadline=None, derandomize=True)
hypothesis.settings.load_profile("shardlab")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return needs.unwanted(collection_path, config.option.markexpr) or None


@pytest.hookimpl(tryfirst=True)  # before pytest's own looks at -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in sorted(needs.marks_of(item)):
            item.add_marker(mark)
        if item.get_closest_marker("gpu") and not HAS_GPU:
            item.add_marker(pytest.mark.skip(reason=NO_GPU))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    needs.allow_ranks(item)
    yield
    needs.allow_ranks(None)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple) and NO_GPU not in report.longrepr[2]:
        _other_skips.append(f"{report.nodeid}: {report.longrepr[2]}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """CI has all that the tests need but a GPU: what else is skipped there is a test that nobody runs."""
    if os.environ.get("CI") and _other_skips and not hasattr(session.config, "workerinput"):
        print("\nskipped in CI, for another reason than a missing GPU:", *_other_skips, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Four warm ranks for all tests; a plan smaller than four runs on the first of them."""
    from shardlab import Ranks

    with Ranks(4) as pool:
        yield pool
