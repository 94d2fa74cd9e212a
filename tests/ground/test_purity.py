"""`import shardlab` costs nothing, and what draws and compares never loads torch.

tests/theory/test_purity.py has the theory's own proof.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "triton", "numpy", "matplotlib", "transformers")


def loads(statement: str, modules: tuple[str, ...]) -> list[str]:
    """-> those of `modules` that a fresh interpreter has loaded after the statement."""
    program = f"import sys\n{statement}\nprint(*[name for name in {modules!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "statement", ["import shardlab", "import shardlab.theory", "from shardlab import Plan, theory"]
)
def test_loads_nothing_heavy(statement: str) -> None:
    assert loads(statement, HEAVY) == []


@pytest.mark.parametrize("module", ["shardlab.compare.tables", "shardlab.measure.record", "shardlab.viz"])
def test_never_loads_torch(module: str) -> None:
    assert loads(f"import {module}", ("torch", "triton")) == []


def test_the_proof_can_fail() -> None:
    assert loads("import numpy", HEAVY) == ["numpy"]


def test_public_names_are_there() -> None:
    assert loads("from shardlab import Ranks, Plan, Transformer, comm, theory", ("torch",)) == ["torch"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    import shardlab

    with pytest.raises(AttributeError, match="no attribute 'Rank'"):
        shardlab.Rank  # noqa: B018
