"""The graph of our own imports, read from the source: which file imports which, where it says so, and for whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = (ROOT / "src", ROOT / "kernels")


@dataclass(frozen=True)
class Import:
    """One import of our own: file `importer` takes `module` at `line`."""

    importer: str
    module: str
    line: int
    hidden: bool  # inside a function: nobody sees it before the function runs
    for_types: bool  # below `if TYPE_CHECKING:`


def modules(roots: tuple[Path, ...] = SOURCE_ROOTS) -> dict[str, Path]:
    """Dotted name -> file, of every module below the roots; a package is its __init__."""
    found = {}
    for root in roots:
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _names_type_checking(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"


def _statements(body: list[ast.stmt], hidden: bool, for_types: bool) -> Iterator[tuple[ast.stmt, bool, bool]]:
    """Every import statement in the body, with (hidden, for_types)."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, hidden, for_types
            continue
        inside = hidden or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        typing = for_types or (isinstance(node, ast.If) and _names_type_checking(node.test))
        for field in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, field, []), inside, typing and field == "body")
        for part in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
            yield from _statements(part.body, inside, for_types)


def imports_of(name: str, text: str, known: set[str], is_package: bool = False) -> Iterator[Import]:
    """The imports of `known` modules in the source of module `name`, relative ones included."""
    for node, hidden, for_types in _statements(ast.parse(text).body, hidden=False, for_types=False):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        else:
            assert isinstance(node, ast.ImportFrom)
            base = node.module or ""
            if node.level:
                parents = name.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            wanted = [f"{base}.{alias.name}" for alias in node.names]
        for want in wanted:
            module = want if want in known else want.rpartition(".")[0]
            if module in known and module != name:
                yield Import(name, module, node.lineno, hidden, for_types)


def all_imports() -> list[Import]:
    files = modules()
    return [
        found
        for name, path in sorted(files.items())
        for found in imports_of(name, path.read_text(), set(files), path.name == "__init__.py")
    ]


def circles(imports: list[Import]) -> list[frozenset[str]]:
    """Groups of files of which each can reach each by imports (strongly connected components of two and more)."""
    graph = nx.DiGraph((found.importer, found.module) for found in imports)
    return [frozenset(group) for group in nx.strongly_connected_components(graph) if len(group) > 1]
