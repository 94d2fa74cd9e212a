"""The shape of the house, where import-linter cannot see: hidden imports, circles between files, loose modules, size.

What the linter does see is in pyproject.toml. A list of exceptions below may only get shorter: an entry that is no
longer needed fails its test too.
"""

from __future__ import annotations

import tomllib

import pytest

from tests.ground.imports import ROOT, all_imports, circles, imports_of, modules

# A command line answers a mistake before torch is loaded: it imports what it runs only once the arguments are good.
COMMAND_LINES = ("shardlab.cli.", "shardlab_kernels.bench.__main__")
# Load by a name that is made at run time: public names on first use (a rank that needs shared memory alone loads no
# Triton), a program by its name, what a server preloads, what carries an axis's collectives.
LOADS_BY_NAME = {
    *("shardlab", "shardlab.theory", "shardlab.algorithms"),
    *("shardlab.cli.run", "shardlab.launch.server", "shardlab.launch.carried"),
}
# Made of an optional library, gguf, which a machine without such files may lack.
OPTIONAL = {("shardlab.model.load", "shardlab.model.checkpoint.gguf")}
MOST_LINES = 250

# Longer than that today: split them, and take them off.
LONG = {"shardlab_kernels.bench.run": 268}


def test_no_import_of_our_own_is_hidden_in_a_function() -> None:
    hidden = {(one.importer, one.module) for one in all_imports() if one.hidden}
    found = {(importer, module) for importer, module in hidden if not f"{importer}.".startswith(COMMAND_LINES)}
    assert found == OPTIONAL


def test_only_these_files_load_a_module_by_a_name_made_at_run_time() -> None:
    calls = ("import_module(", "resolve_name(")
    found = {name for name, path in modules().items() if any(call in path.read_text() for call in calls)}
    assert found == LOADS_BY_NAME


def test_no_circle_between_files() -> None:
    assert [sorted(circle) for circle in circles(all_imports())] == []


def test_no_loose_module_at_the_top() -> None:
    loose = [path.name for path in (ROOT / "src" / "shardlab").glob("*.py")]
    assert sorted(loose) == ["__init__.py", "__main__.py"]


def test_no_file_is_longer_than_a_reader_holds() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    long = {name: number for name, number in lines.items() if number > MOST_LINES}
    assert set(long) == set(LONG), "split it; or, if it was split, shorten the list in this file"
    assert {name: number for name, number in long.items() if number > LONG[name]} == {}, "it has grown"


def test_every_folder_of_modules_is_a_package() -> None:
    # Without __init__.py import-linter does not see the folder, and its rules hold nothing.
    folders = {path.parent for path in modules().values()} - {ROOT / "src", ROOT / "kernels"}
    assert sorted(str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()) == []


def rooms_of_the_contract() -> set[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return {room.strip(" ()") for floor in layers for room in floor.replace(":", "|").split("|")}


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {f"shardlab.{path.parent.name}" for path in (ROOT / "src" / "shardlab").glob("*/__init__.py")}
    assert sorted(rooms - rooms_of_the_contract()) == []


KNOWN = {"a.one", "a.two", "a", "b"}


@pytest.mark.parametrize(
    ("code", "hidden", "for_types"),
    [
        ("from a import two", False, False),
        ("import a.two", False, False),
        ("from a.two import name", False, False),
        ("from . import two", False, False),
        ("from .two import name", False, False),
        ("def f():\n    from a import two", True, False),
        ("class C:\n    async def f(self):\n        if x:\n            import a.two", True, False),
        ("def f():\n    try:\n        pass\n    except E:\n        import a.two", True, False),
        ("def f():\n    match x:\n        case 1:\n            import a.two", True, False),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a.two", False, True),
        ("import typing\nif typing.TYPE_CHECKING:\n    pass\nelse:\n    import a.two", False, False),
    ],
)
def test_the_search_finds_an_import(code: str, hidden: bool, for_types: bool) -> None:
    (found,) = imports_of("a.one", code, KNOWN)
    assert (found.module, found.hidden, found.for_types) == ("a.two", hidden, for_types)


def test_the_search_finds_a_circle() -> None:
    lines = {"a.one": "import a.two", "a.two": "def f():\n    import b", "b": "from a import one", "a": "import b"}
    found = [one for name, code in lines.items() for one in imports_of(name, code, KNOWN)]
    assert circles(found) == [frozenset({"a.one", "a.two", "b"})]
