"""theory and compare run on the standard library: a browser's Python has no torch and no numpy."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = """
import shardlab.theory as theory
for name in theory.__all__:
    getattr(theory, name)
import shardlab.compare.tables, shardlab.measure.record
"""


def loaded(program: str) -> set[str]:
    code = f"import sys\n{program}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("banned", ["torch", "triton", "numpy", "pandas"])
def test_theory_and_compare_load_nothing_heavy(banned: str) -> None:
    assert banned not in loaded(MODULES)


def test_only_the_standard_library_and_this_package() -> None:
    # What the interpreter itself brings along (site, editable finders) is taken off.
    extra = loaded(MODULES) - loaded("") - set(sys.stdlib_module_names)
    assert extra == {"shardlab"}


def test_the_test_would_notice() -> None:
    assert "numpy" in loaded("import numpy")
