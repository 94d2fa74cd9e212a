"""What no file may call: torch.distributed outside comm and launch; a shell, an unpickler or foreign code anywhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
# The places of the house that may talk to a process group; and the one that asks torch to map the memory of a
# group's GPUs into each other's processes, for kernels that communicate by themselves.
DISTRIBUTED = (
    "src/shardlab/comm/collectives.py",
    "src/shardlab/comm/mesh.py",
    "src/shardlab/comm/point_to_point.py",
    "src/shardlab/comm/posted.py",
    "src/shardlab/launch/",
    "src/shardlab/algorithms/symmetric.py",
)
# The contenders: the same toy job without any of this package, and the backend's own collectives.
RIVALS = ("benchmarks/launch.py", "benchmarks/collectives.py")
# May ask what this torch was built with (is_available, is_nccl_available, ...), and nothing else.
ASKS = ("src/shardlab/cli/examine.py",)
# Messages between our own processes, over our own socket pairs: see the first lines of launch/pickles.py.
PICKLE = ("src/shardlab/launch/",)


def name_of(node: ast.AST) -> str:
    """a.b.c for the attribute chain a.b.c, else ''."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def uses_distributed(tree: ast.AST) -> Iterator[int]:
    """Lines that import or name torch.distributed."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.Attribute):
            continue
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            modules = [name_of(node)]
        if any(f"{module}.".startswith("torch.distributed.") for module in modules):
            yield node.lineno


def called_on_distributed(tree: ast.AST) -> set[str]:
    """Names taken from torch.distributed, under whatever name the file imports it."""
    aliases = {"torch.distributed"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname for alias in node.names if alias.name == "torch.distributed" and alias.asname}
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            aliases |= {alias.asname or alias.name for alias in node.names if alias.name == "distributed"}
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("torch.distributed."):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute) and name_of(node.value) in aliases:
            names.add(node.attr)
    return names


def unsafe(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) for a shell, an unpickler, foreign code or a YAML loader that builds objects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword):
            if node.arg == "shell" and not (isinstance(node.value, ast.Constant) and node.value.value is False):
                yield node.value.lineno, "shell"
            if node.arg == "trust_remote_code":
                yield node.value.lineno, "trust_remote_code"
        if isinstance(node, ast.Call):
            called = name_of(node.func)
            module, _, function = called.rpartition(".")
            if called in ("os.system", "os.popen", "eval", "exec", "torch.load"):
                yield node.lineno, called
            if module.endswith(("pickle", "dill", "joblib")) and function in ("load", "loads", "Unpickler"):
                yield node.lineno, "unpickle"
            if module == "yaml" and function not in ("safe_load", "safe_dump"):
                yield node.lineno, called
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "cloudpickle", "yaml"):
            for alias in node.names:
                if alias.name in ("load", "loads", "Unpickler", "unsafe_load", "full_load"):
                    yield node.lineno, "unpickle" if node.module != "yaml" else f"yaml.{alias.name}"


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_something_to_read() -> None:
    assert len(SOURCES) > 30


def test_only_comm_mesh_and_launch_use_torch_distributed() -> None:
    found = {relative(path) for path in SOURCES if any(True for _ in uses_distributed(ast.parse(path.read_text())))}
    assert sorted(path for path in found if not path.startswith((*DISTRIBUTED, *ASKS, *RIVALS))) == []
    assert "src/shardlab/comm/collectives.py" in found


def test_no_shell_no_pickle_no_foreign_code() -> None:
    found = [
        f"{relative(path)}:{line}: {what}"
        for path in SOURCES
        for line, what in unsafe(ast.parse(path.read_text()))
        if not (what == "unpickle" and relative(path).startswith(PICKLE))
    ]
    assert found == []


def test_others_only_ask_what_there_is() -> None:
    for path in ASKS:
        asked = called_on_distributed(ast.parse((ROOT / path).read_text()))
        assert [name for name in asked if not re.fullmatch(r"is_\w*available", name)] == []


@pytest.mark.parametrize(
    "code",
    [
        "import torch.distributed as dist\ndist.all_reduce(x)",
        "from torch import distributed\ndistributed.all_reduce(x)",
        "import torch\ntorch.distributed.all_reduce(x)",
        "from torch.distributed import all_reduce",
    ],
)
def test_the_search_finds_what_is_called(code: str) -> None:
    assert called_on_distributed(ast.parse(code)) == {"all_reduce"}


@pytest.mark.parametrize(
    "code",
    [
        "import torch.distributed as dist",
        "from torch import distributed",
        "from torch.distributed import all_reduce",
        "import torch\ntorch.distributed.all_reduce(x)",
    ],
)
def test_the_search_finds_torch_distributed(code: str) -> None:
    assert list(uses_distributed(ast.parse(code)))
    assert not list(uses_distributed(ast.parse("import torch\ntorch.add(x, y)\n'torch.distributed'")))


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("subprocess.run('ls', shell=True)", "shell"),
        ("subprocess.run('ls', shell=flag)", "shell"),
        ("os.system('ls')", "os.system"),
        ("pickle.load(file)", "unpickle"),
        ("cloudpickle.loads(data)", "unpickle"),
        ("from pickle import loads", "unpickle"),
        ("torch.load(path)", "torch.load"),
        ("AutoModel.from_pretrained(path, trust_remote_code=True)", "trust_remote_code"),
        ("yaml.load(text)", "yaml.load"),
    ],
)
def test_the_search_finds_what_is_unsafe(code: str, what: str) -> None:
    assert [found for _, found in unsafe(ast.parse(code))] == [what]
    assert not list(unsafe(ast.parse("subprocess.run(['ls'], shell=False); yaml.safe_load(text); json.loads(t)")))


@pytest.mark.parametrize("package", ["src/shardlab", "kernels/shardlab_kernels"])
def test_types_are_shipped(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
