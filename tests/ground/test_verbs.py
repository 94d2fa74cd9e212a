"""The Makefile's verbs, its plain errors, and what every change must pass."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKE_THE_ENVIRONMENT = ("book", "test", "quick", "labs", "lint", "lab", "bench", "lattice", "mutants")
VERBS = (*MAKE_THE_ENVIRONMENT, "lock", "clean", "distclean", "help")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env={**env, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("verb", VERBS)
def test_verb_exists(verb: str) -> None:
    assert make("-n", verb).returncode == 0


def test_an_unknown_verb_fails() -> None:
    assert make("-n", "boook").returncode != 0


@pytest.mark.parametrize("verb", MAKE_THE_ENVIRONMENT)
def test_each_verb_makes_the_environment(verb: str, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    said = make("-n", verb, cwd=tmp_path).stdout
    assert "install -r requirements.lock" in said and "touch .venv" in said


@pytest.mark.parametrize("version", ["3.9.2", "3.10.14"])
def test_an_old_python_is_refused_in_plain_words(version: str, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "python3"
    old.write_text(f'#!/bin/sh\n[ "$1" = -V ] && echo "Python {version}" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = make("lint", f"PYTHON={old}", cwd=tmp_path)
    assert done.returncode != 0
    assert f"Python 3.11 or newer is needed; {old} is Python {version}." in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_jupyterlab_stays_on_this_machine_with_its_token() -> None:
    said = make("-n", "lab").stdout
    assert "--ServerApp.ip=127.0.0.1" in said
    assert not any(word in said for word in ("token", "0.0.0.0", "allow-root", "password"))


def test_ci_runs_both_verbs_and_hides_no_failure() -> None:
    script = ROOT / ".ci" / "run"
    lines = script.read_text().splitlines()
    assert os.access(script, os.X_OK)
    assert lines[0].startswith("#!") and "set -eo pipefail" in lines
    assert any(line.startswith("make test") for line in lines) and "make book" in lines


def test_quick_is_lint_and_what_needs_neither_ranks_nor_kernels() -> None:
    said = make("-n", "quick").stdout
    assert "ruff check" in said and "pyright" in said and "lint-imports" in said and "nbval" not in said
    (line,) = (line for line in said.splitlines() if "pytest" in line)
    assert '-m "not ranks and not kernels and not slow"' in line and "-n 2" in line


def test_tests_on_ranks_run_one_after_the_other_and_the_rest_side_by_side() -> None:
    said = [line for line in make("-n", "test").stdout.splitlines() if "pytest tests" in line]
    together, in_order = said
    assert '-m "not ranks"' in together and "-n 2" in together
    assert '-m "ranks"' in in_order and "-n " not in in_order


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (3, 3)])
def test_a_part_keeps_its_seconds_and_its_exit_code(code: int, ends: int, tmp_path: Path) -> None:
    part = next(line for line in make("-n", "lint").stdout.splitlines() if "ruff check" in line)
    script = part.replace(f"{part.split('; ')[3]}; status", f"(exit {code}); status")
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == ends, script
    (kept,) = (tmp_path / "build" / "seconds-of-each-part").read_text().splitlines()
    assert kept.endswith(" s  ruff check")
