"""The programs that `shardlab run` can run, read from their source: no import, so a wrong name is answered at once."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shardlab
from shardlab.cli.plain import Mistake


@dataclass(frozen=True)
class Program:
    """A function of shardlab.programs whose first parameter is `mesh`."""

    name: str  # "tensor.mlp_forward"
    required: tuple[str, ...]
    optional: tuple[str, ...]
    types: dict[str, str]  # of each parameter, as its annotation is written
    about: str


def programs() -> dict[str, Program]:
    """Every program by name, in the order of the source files."""
    folder = Path(shardlab.__file__).parent / "programs"
    found = [program for file in sorted(folder.glob("*.py")) for program in _programs_in(file)]
    return {program.name: program for program in found}


def find(name: str) -> Program:
    """The program called `name`. Raises Mistake, naming those that exist."""
    known = programs()
    if name not in known:
        raise Mistake(f"unknown program {name!r}; the programs are:\n  " + "\n  ".join(known))
    return known[name]


def arguments(program: Program, settings: Sequence[str]) -> dict[str, Any]:
    """["batch=2", "dtype=bfloat16"] -> {"batch": 2, "dtype": "bfloat16"}.

    A value is a Python literal, or else a string. Raises Mistake for a setting that is not NAME=VALUE, a name
    that the program does not have, a value of another type, and a parameter left without a value.
    """
    allowed = (*program.required, *program.optional)
    given: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise Mistake(f"--set {setting!r}: NAME=VALUE is needed, for example --set batch=2")
        if name not in allowed:
            choices = ", ".join(allowed) or "none"
            raise Mistake(f"--set {setting!r}: {program.name} has no parameter {name!r}; it has: {choices}")
        given[name] = _value(text)
        if program.types.get(name) == "int" and (type(given[name]) is not int or given[name] < 0):
            raise Mistake(f"--set {setting!r}: {name} is an integer of 0 or more")
    missing = [name for name in program.required if name not in given]
    if missing:
        needed = " ".join(f"--set {name}=..." for name in missing)
        raise Mistake(f"{program.name} needs a value for {', '.join(missing)}: {needed}")
    return given


def _programs_in(file: Path) -> list[Program]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    found = [_program(f"{file.stem}.{node.name}", node) for node in functions]
    return [program for program in found if program is not None]


def _program(name: str, node: ast.FunctionDef) -> Program | None:
    """None for a helper: its first parameter is no mesh, or it needs something that nobody can type."""
    parameters = [*node.args.posonlyargs, *node.args.args]
    if not parameters or parameters[0].arg != "mesh":
        return None
    defaults: list[ast.expr | None] = [None] * (len(parameters) - len(node.args.defaults))
    defaults += node.args.defaults
    rest = list(zip(parameters, defaults, strict=True))[1:]
    rest += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    required = [argument for argument, default in rest if default is None]
    if not all(_typable(argument) for argument in required):
        return None
    optional = [argument.arg for argument, default in rest if default is not None and _typable(argument)]
    prose = (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")
    about = re.split(r"(?<=\w)\.(?: |$)", prose)[0]  # one sentence; the " . " of a product does not end it
    types = {argument.arg: ast.unparse(argument.annotation) for argument, _ in rest if argument.annotation}
    return Program(name, tuple(argument.arg for argument in required), tuple(optional), types, about)


def _typable(argument: ast.arg) -> bool:
    """Whether its value can be written on a command line: numbers, words, lists of them."""
    if argument.annotation is None:
        return True
    names = {node.id for node in ast.walk(argument.annotation) if isinstance(node, ast.Name)}
    return names <= {"int", "float", "str", "bool", "list", "tuple", "Path", "Sequence"}


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
