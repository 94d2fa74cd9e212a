"""Write integrity.json: the sha384 of every vendored file, in the form that browsers use."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCK = HERE / "integrity.json"
PACKAGES = ("html-manager", "mathjax")


def digest(path: Path) -> str:
    """-> 'sha384-' and the hash in base64."""
    return "sha384-" + base64.b64encode(hashlib.sha384(path.read_bytes()).digest()).decode()


def vendored() -> dict[str, str]:
    """-> path below third_party -> digest, for every file of every vendored package."""
    files = sorted(path for package in PACKAGES for path in (HERE / package).rglob("*") if path.is_file())
    return {path.relative_to(HERE).as_posix(): digest(path) for path in files}


if __name__ == "__main__":
    LOCK.write_text(json.dumps(vendored(), indent=1) + "\n")
    print(f"{LOCK.name}: {len(vendored())} files")
