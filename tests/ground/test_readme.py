"""README: no folder and no file in its table that is not there, and no command that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
ROWS = re.findall(r"^\| (`.*?) \| .* \| (`.*?) \|$", README, re.MULTILINE)


def test_every_folder_and_every_first_file_is_there() -> None:
    assert len(ROWS) >= 10
    for names, starts in ROWS:
        folders = re.findall(r"`([^`]+)`", names)
        parents = [ROOT / folders[0], *((ROOT / folders[0]).parent / name for name in folders[1:])]
        parents = [path if path.is_dir() else ROOT / name for path, name in zip(parents, folders, strict=True)]
        assert [name for path, name in zip(parents, folders, strict=True) if not path.is_dir()] == []
        files = re.findall(r"`([^`]+)`", starts)
        assert [name for name in files if not any((path / name).is_file() for path in parents)] == []


def test_every_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_every_verb_of_make_is_a_verb() -> None:
    verbs = set(re.findall(r"(?:`|^)make (\w+)", README, re.MULTILINE))
    assert {"book", "test", "quick"} <= verbs
    assert [verb for verb in verbs if not re.search(rf"^{verb}:", (ROOT / "Makefile").read_text(), re.MULTILINE)] == []
