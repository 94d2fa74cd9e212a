"""The vendored scripts are the ones that were locked, and a small bundle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

THIRD_PARTY = Path(__file__).resolve().parents[2] / "third_party"


def lock_of(folder: Path) -> dict[str, str]:
    """What integrity.py computes in a copy of the folder."""
    subprocess.run([sys.executable, folder / "integrity.py"], check=True, capture_output=True)
    return json.loads((folder / "integrity.json").read_text())


def test_files_are_the_locked_ones(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(THIRD_PARTY, tmp_path / "third_party"))
    assert lock_of(copy) == json.loads((THIRD_PARTY / "integrity.json").read_text())


def test_a_changed_and_a_new_file_are_noticed(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(THIRD_PARTY, tmp_path / "third_party"))
    script = copy / "html-manager" / "embed.js"
    script.write_bytes(script.read_bytes() + b" ")
    (copy / "mathjax" / "extra.js").write_text("")
    locked = json.loads((THIRD_PARTY / "integrity.json").read_text())
    now = lock_of(copy)
    assert {path for path in now if now[path] != locked.get(path)} == {
        "html-manager/embed.js",
        "mathjax/extra.js",
    }


def test_small_and_licensed() -> None:
    packages = [path for path in THIRD_PARTY.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert len(packages) == 2
    assert all((package / "LICENSE.txt").is_file() for package in packages)
    assert sum(path.stat().st_size for path in THIRD_PARTY.rglob("*") if path.is_file()) < 6e6
