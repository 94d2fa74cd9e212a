"""One source of truth for versions: requirements.lock. What else names a package must agree with it."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"


def requirements(text: str) -> list[Requirement]:
    lines = (line.split(" #")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pins(text: str) -> dict[str, Version]:
    """name -> version. Raises ValueError for a line that does not pin one version, or pins it twice."""
    found: dict[str, Version] = {}
    for need in requirements(text):
        match = re.fullmatch(r"==([^*,]+)", str(need.specifier))
        name = canonicalize_name(need.name)
        if not match or name in found:
            raise ValueError(f"{need}: one exact version is needed, once")
        found[name] = Version(match[1])
    return found


def conflicts(conda: dict, lock: dict[str, Version], requires_python: str) -> list[str]:
    """What an environment.yml says beside or against the lock."""
    wrong = []
    plain = [item for item in conda["dependencies"] if isinstance(item, str)]
    (nested,) = [item["pip"] for item in conda["dependencies"] if isinstance(item, dict)]
    for item in plain:
        name, _, version = item.partition("=")
        if name == "python":
            if not Requirement(f"python{requires_python}").specifier.contains(version.strip("=") + ".0"):
                wrong.append(f"{item} against requires-python {requires_python}")
        elif canonicalize_name(name) in lock or (name != "pip" and version):
            wrong.append(f"{item}: versions belong in the lock")
    if nested != ["-r requirements.lock", "-e ."]:
        wrong.append(f"pip installs {nested}")
    return wrong


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_line_of_the_lock_is_a_pin() -> None:
    lock = pins(LOCK.read_text())
    assert len(lock) > 100
    assert lock["torch"] == Version("2.13.0") and lock["triton"] == Version("3.7.1")


def test_one_lock_serves_cpu_and_cuda() -> None:
    lock = pins(LOCK.read_text())
    assert [name for name, version in lock.items() if version.local] == []
    cuda = [name for name in lock if re.match(r"nvidia-(?!ml-py$)|cuda-", name)]
    assert cuda == [], "torch itself asks for these, where it is the CUDA build"


@pytest.mark.parametrize("text", ["numpy>=2", "numpy", "numpy==2.*", "numpy==2.0\nNumPy==2.1"])
def test_the_test_would_notice_a_loose_pin(text: str) -> None:
    with pytest.raises(ValueError, match="(?i)numpy"):
        pins(text)


def test_direct_needs_are_in_the_lock() -> None:
    lock = pins(LOCK.read_text())
    direct = [Requirement(need) for need in project()["dependencies"]]
    direct += requirements((ROOT / "requirements.in").read_text())
    for need in direct:
        name = canonicalize_name(need.name)
        assert name in lock, f"{name} is not in the lock: make lock"
        assert need.specifier.contains(lock[name]), f"{need} against {lock[name]} in the lock"


def test_what_the_package_needs_is_what_the_lock_was_made_from() -> None:
    made_from = {canonicalize_name(r.name) for r in requirements((ROOT / "requirements.in").read_text())}
    needed = {canonicalize_name(Requirement(need).name) for need in project()["dependencies"]}
    assert needed <= made_from


def test_environment_yml_only_wraps_the_lock() -> None:
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conflicts(conda, pins(LOCK.read_text()), project()["requires-python"]) == []


@pytest.mark.parametrize(
    "dependencies",
    [
        ["python=3.9", "pip", {"pip": ["-r requirements.lock", "-e ."]}],
        ["python=3.11", "numpy=1.26", {"pip": ["-r requirements.lock", "-e ."]}],
        ["python=3.11", "pip", {"pip": ["torch", "-e ."]}],
    ],
)
def test_the_test_would_notice_a_contradiction(dependencies: list) -> None:
    lock = {"numpy": Version("2.4.6")}
    assert conflicts({"dependencies": dependencies}, lock, ">=3.11")


def test_the_lock_serves_every_python_311() -> None:
    """Debian 12 has 3.11.2: a package that asks for 3.11.5 would end `make` there."""
    lock = pins(LOCK.read_text())
    asks = {
        dist.name: dist.metadata["Requires-Python"] or ""
        for dist in metadata.distributions()
        if canonicalize_name(dist.name) in lock
    }
    assert {name: text for name, text in asks.items() if not SpecifierSet(text).contains("3.11.0")} == {}


def test_this_environment_is_the_lock() -> None:
    if default_environment()["python_version"] != "3.11":
        pytest.skip("the lock is for Python 3.11")
    installed: dict[str, Version] = {
        canonicalize_name(dist.name): Version(Version(dist.version).public) for dist in metadata.distributions()
    }
    lock = pins(LOCK.read_text())
    off = {name: (version, installed.get(name)) for name, version in lock.items() if installed.get(name) != version}
    assert off == {}, "run make: the environment is behind the lock"
