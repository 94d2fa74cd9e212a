"""Every run starts alike: what a program left behind is gone, random numbers differ by rank, reloaded code is run."""

from __future__ import annotations

import functools
import importlib
import os
import random
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from shardlab import Plan, Ranks
from shardlab.comm.mesh import Mesh
from shardlab.launch import client
from shardlab.launch.reloads import Modules
from tests.launch.kernel import kernel

# --------------------------------------------------------------------------------------------- state and random numbers


def look(mesh: Mesh) -> dict[str, object]:
    return {
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "environ": {k: v for k, v in os.environ.items() if k != "PWD"},
    }


def leave_traces(mesh: Mesh) -> float:
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.set_num_threads(torch.get_num_threads() + 3)
    torch.use_deterministic_algorithms(True)
    os.chdir("/")
    sys.path.insert(0, "/nowhere")
    os.environ["SHARDLAB_TRACE"] = "left behind"
    del os.environ["RANK"]
    return draw(mesh)[0]


def draw(mesh: Mesh) -> tuple[float, float, float]:
    return torch.rand(1, device="cpu").item(), random.random(), float(np.random.rand())


def test_nothing_leaks_from_one_program_to_the_next(ranks: Ranks) -> None:
    before = ranks.run(look)
    pids = ranks.pids
    ranks.run(leave_traces)
    assert ranks.run(look) == before
    assert ranks.pids == pids, "the same processes"


def test_random_numbers_differ_by_rank_and_are_the_same_in_every_run(ranks: Ranks) -> None:
    first = ranks.run(draw)
    for kind in range(3):
        assert len({numbers[kind] for numbers in first}) == 4, "torch, random and numpy differ on every rank"
    ranks.run(leave_traces)
    assert ranks.run(draw) == first
    assert ranks.run(draw, plan=Plan(tp=2)) == first[:2]
    ranks.close()
    assert ranks.run(draw) == first, "on fresh processes too"
    torch.manual_seed(1)
    assert first[1][0] == torch.rand(1).item(), "the seed is the rank's number"


# ------------------------------------------------------------------------------------------------- keywords of both


def wants_all(mesh: Mesh, plan: str, wire: int = 7, check: str = "mine", timeout_s: float = 0.5) -> tuple[object, ...]:
    return plan, wire, check, timeout_s


@pytest.mark.parametrize(
    ("keyword", "value"), [("plan", Plan(tp=2)), ("wire", False), ("check", True), ("timeout_s", 9.0)]
)
def test_a_keyword_that_both_have_is_refused(keyword: str, value: object) -> None:
    client.close_server()
    args = () if keyword == "plan" else ("given",)
    words = (
        rf"`{keyword}` is a keyword of Ranks.run and a parameter of wants_all: .*partial\(wants_all, {keyword}=...\)"
    )
    with pytest.raises(TypeError, match=words):
        Ranks(2).run(wants_all, *args, **{keyword: value})  # pyright: ignore[reportArgumentType]
    assert client._server is None, "before any process starts"


def test_each_gets_its_own(ranks: Ranks) -> None:
    both = functools.partial(wants_all, check="b")
    assert ranks.run(both, "a", check=False, plan=Plan(tp=2)) == [("a", 7, "b", 0.5)] * 2
    everything = functools.partial(wants_all, plan="p", wire=1, check="c", timeout_s=2.0)
    assert ranks.run(everything, plan=Plan(tp=3), wire=False, check=True, timeout_s=60.0) == [("p", 1, "c", 2.0)] * 3
    assert ranks.run(wants_all, "by position", 8, "here", 1.5, plan=Plan(tp=1), check=True) == [
        ("by position", 8, "here", 1.5)
    ]


# -------------------------------------------------------------------------------------------------------- reloads


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of a user's, in a file that may be edited; imported by its name."""
    path = tmp_path / "edited_by_hand.py"
    path.write_text("def answer(mesh):\n    return 'old'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the compiled file knows the source's time to a second
    yield path
    sys.modules.pop("edited_by_hand", None)


def test_a_reload_starts_the_ranks_again(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import edited_by_hand  # pyright: ignore[reportMissingImports]

    with Ranks(2) as two:
        assert two.run(edited_by_hand.answer) == ["old"] * 2
        pids = two.pids
        assert two.run(edited_by_hand.answer) == ["old"] * 2 and two.pids == pids
        module.write_text("def answer(mesh):\n    return 'the new one'\n")
        assert two.run(edited_by_hand.answer) == ["old"] * 2 and two.pids == pids, "edited, and not reloaded: as here"
        importlib.reload(edited_by_hand)
        capsys.readouterr()
        assert two.run(edited_by_hand.answer) == ["the new one"] * 2
        line = "edited_by_hand was reloaded: the ranks start again, with the new code\n"
        assert capsys.readouterr().out == line
        pids = two.pids
        assert two.run(edited_by_hand.answer) == ["the new one"] * 2 and two.pids == pids, "once is enough"
        assert capsys.readouterr().out == ""


def test_a_reload_of_ours_reaches_the_launch_server(capsys: pytest.CaptureFixture[str]) -> None:
    """The ranks are forks of the server, which has the launcher's modules imported already: it starts again too."""
    from shardlab.launch import frames

    with Ranks(2) as two:
        two.run(draw)
        old = client.server().process.pid
        importlib.reload(frames)
        two.run(draw)
        assert client.server().process.pid != old
        assert "shardlab.launch.frames was reloaded" in capsys.readouterr().out


def test_code_that_autoreload_puts_in_place_is_seen_by_the_file(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edited_by_hand  # pyright: ignore[reportMissingImports]

    watched = Modules()
    module.write_text("def answer(mesh):\n    return 'the new one'\n")
    os.utime(module, (2e9, 2e9))
    assert watched.reloaded() == [], "an edit alone changes nothing here"
    monkeypatch.setitem(sys.modules, "IPython.extensions.autoreload", edited_by_hand)
    assert watched.reloaded() == ["edited_by_hand"]


def test_what_is_installed_is_not_watched() -> None:
    watched = Modules()._specs
    assert "shardlab.launch.pool" in watched
    assert not {"torch", "numpy", "json", "os"} & set(watched)


def test_autoreload_in_a_notebook(tmp_path: Path) -> None:
    """IPython's autoreload may put new code into a module in place, without a reload that could be seen."""
    (tmp_path / "edited_by_hand.py").write_text("def answer(mesh):\n    return 'old'\n")
    cell = textwrap.dedent(
        """
        %load_ext autoreload
        %autoreload 2
        import sys
        sys.dont_write_bytecode = True
        from shardlab import Ranks
        import edited_by_hand
        ranks = Ranks(2)
        print(ranks.run(edited_by_hand.answer), edited_by_hand.answer(None))
        """
    )
    with kernel(tmp_path) as notebook:
        assert "['old', 'old'] old" in notebook.cell(cell)
        (tmp_path / "edited_by_hand.py").write_text("def answer(mesh):\n    return 'the new one'\n")
        out = notebook.cell("print(ranks.run(edited_by_hand.answer), edited_by_hand.answer(None))")
        assert "['the new one', 'the new one'] the new one" in out
        assert "edited_by_hand was reloaded: the ranks start again, with the new code" in out
        again = notebook.cell("print(ranks.run(edited_by_hand.answer), edited_by_hand.answer(None))")
        assert again == "['the new one', 'the new one'] the new one\n"
