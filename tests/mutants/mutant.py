"""A mutant: one small mistake in one file of the package, and the tests that have to notice it.

The patch is applied to a copy of the package in a folder of its own, and just those tests run on the copy. A test that
could not run at all (a module that does not import, a fixture that fails) has not noticed anything.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
LIMIT_S = 300
# No plugin but these: one that is for notebooks alone takes longer to import than most of these tests to run.
PLUGINS = ("-p", "no:cacheprovider", "-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin")


@dataclass(frozen=True)
class Mutant:
    """In `file`, under src/shardlab, the text `old` becomes `new`; each of `tests` must then fail.

    `old` stands there just once. `elsewhere`: rank 0 still does the right thing (its offsets are zero, or its place is
    the one that the mistake leaves alone), so only a test that looks at other ranks can notice.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    elsewhere: bool = False

    @property
    def path(self) -> Path:
        return SOURCE / "shardlab" / self.file

    def patched(self) -> str:
        """The file's text with the mistake in it. ValueError where `old` is not there just once."""
        text = self.path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} has the old text {text.count(self.old)} times, not once")
        return text.replace(self.old, self.new)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Verdict:
    """What a run of tests said: those that failed, and those that broke before they could look."""

    failed: tuple[str, ...]
    broken: tuple[str, ...]
    output: str

    def noticed(self, test: str) -> bool:
        """Whether this test, or one of its cases, failed."""
        return any(one == test or one.startswith(f"{test}[") for one in self.failed)


def run(tests: tuple[str, ...], folder: Path, mutant: Mutant | None = None) -> Verdict:
    """Run `tests` on a copy of the package made in `folder`, with `mutant` in it or as it is."""
    shutil.copytree(SOURCE, folder / "src")  # with the compiled files, so that only the patched one is compiled anew
    if mutant is not None:
        (folder / "src" / "shardlab" / mutant.file).write_text(mutant.patched(), encoding="utf-8")
    paths = [folder / "src", ROOT / "kernels", ROOT]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=line", *PLUGINS, *tests],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),  # no counterexample of a mutant is kept
            "SHARDLAB_LATTICE": "all",  # a point that the sample left out can be asked for
            "COLUMNS": "1000",  # names are not cut
        },
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    output = done.stdout + done.stderr
    failed, broken = (
        tuple(re.findall(rf"^{word} (tests/\S+?\.py(?:::.+?)?)(?: - |$)", output, flags=re.MULTILINE))
        for word in ("FAILED", "ERROR")
    )
    if done.returncode not in (0, 1):  # interrupted, nothing collected, a wrong name
        broken += (f"pytest ended with {done.returncode}",)
    return Verdict(failed, broken, output)
