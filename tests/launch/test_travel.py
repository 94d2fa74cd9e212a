"""What travels to the ranks and back: functions by value, tensors as bytes, output; and F26, what cannot travel."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from shardlab import Ranks, comm
from shardlab.comm.mesh import Mesh
from shardlab.launch import RankError, client, pickles
from tests.launch import programs

LOCK = threading.Lock()


def _uses_a_global(mesh: Mesh) -> None:
    with LOCK:
        pass


def _closure() -> Callable[[Mesh], Any]:
    rows = (i for i in range(3))
    return lambda mesh: next(rows)


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        ((threading.Lock(),), {}, r"argument `seconds` cannot be sent to the ranks: .*lock"),
        ((), {"seconds": (i for i in range(3))}, r"argument `seconds` .*generator"),
        (({"a": [1, threading.Lock()]},), {}, r"argument `seconds\['a'\]\[1\]`"),
    ],
)
def test_f26_an_argument_that_cannot_travel(args: tuple[Any, ...], kwargs: dict[str, Any], named: str) -> None:
    client.close_server()
    with pytest.raises(TypeError, match=named):
        Ranks(2).run(programs.sleeps, *args, **kwargs)
    assert client._server is None, "found out before any process starts"


def test_f26_a_variable_of_a_closure() -> None:
    client.close_server()
    with pytest.raises(TypeError, match=r"`rows`, which <lambda> uses, cannot be sent to the ranks: .*generator"):
        Ranks(2).run(_closure())
    assert client._server is None


def test_f26_a_global_of_a_script() -> None:
    code = """
        import threading
        from shardlab import Ranks
        from shardlab.launch import client
        door = threading.Lock()
        def program(mesh):
            with door: pass
        try:
            Ranks(2).run(program)
        except TypeError as error:
            print(error, client._server is None)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=100)
    assert done.stdout.startswith("`door`, which program uses, cannot be sent to the ranks: "), done.stderr
    assert done.stdout.endswith("True\n")


def test_functions_of_here_travel(ranks: Ranks) -> None:
    offset = 10

    def program(mesh: Mesh, factor: int = 1) -> int:
        return (mesh.rank + offset) * factor

    assert ranks.run(program, factor=2) == [20, 22, 24, 26]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).reshape(3, 4).T,
        torch.tensor(3.5, dtype=torch.bfloat16),
        torch.empty(0, 5, dtype=torch.int64),
        torch.tensor([True, False]),
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.randn(2, 2, requires_grad=True),
        torch.nn.Parameter(torch.randn(2)),
        torch.randn(4, 4).to_sparse(),
    ],
    ids=lambda t: f"{type(t).__name__} {t.dtype} {tuple(t.shape)}",
)
def test_tensors_travel_as_they_are(ranks: Ranks, tensor: torch.Tensor) -> None:
    back = ranks.run(lambda mesh, x: x, tensor)[3]
    assert type(back) is type(tensor) and back.dtype == tensor.dtype and back.shape == tensor.shape
    assert back.requires_grad == tensor.requires_grad and back.layout == tensor.layout
    assert torch.equal(back.to_dense().detach(), tensor.to_dense().detach())


def test_a_view_ships_only_its_own_elements() -> None:
    assert len(pickles.dumps(torch.zeros(1_000_000)[:10])) < 1000


def test_large_arguments_and_results(ranks: Ranks) -> None:
    big = torch.randn(2_000_000)
    back = ranks.run(lambda mesh, x: x * 2, big)
    assert all(torch.equal(b, big * 2) for b in back)


def test_output_comes_rank_by_rank(ranks: Ranks, capfd: pytest.CaptureFixture[str]) -> None:
    def speak(mesh: Mesh) -> None:
        import os

        print("one\ntwo")
        os.system("echo three")  # noqa: S605, S607  (from C, past Python's buffers)
        comm.barrier(mesh["tp"])

    ranks.run(speak)
    lines = [f"[rank {rank}] {word}" for rank in range(4) for word in ("one", "two", "three")]
    assert capfd.readouterr().out.splitlines()[-12:] == lines
    ranks.run(speak)
    assert capfd.readouterr().out.splitlines() == lines, "what has been shown is not shown again"


def test_output_of_a_failed_run_is_shown(ranks: Ranks, capsys: pytest.CaptureFixture[str]) -> None:
    def program(mesh: Mesh) -> None:
        print("before", mesh.rank)
        raise RuntimeError("after")

    with pytest.raises(RankError, match=r"rank \d: RuntimeError: after"):
        ranks.run(program)
    assert "[rank 2] before 2" in capsys.readouterr().out


def test_a_chain_of_exceptions_is_told_whole(ranks: Ranks) -> None:
    def program(mesh: Mesh) -> None:
        try:
            {}["missing"]
        except KeyError as error:
            raise ValueError("no such layer") from error

    with pytest.raises(RankError) as caught:
        ranks.run(program)
    message = str(caught.value)
    assert message.index("KeyError: 'missing'") < message.index("led to this one") < message.rindex("ValueError")
    assert '{}["missing"]' in message, "with the line of source"


def test_a_result_that_cannot_travel(ranks: Ranks) -> None:
    with pytest.raises(RankError, match=r"rank \d: TypeError: cannot pickle '_thread.lock'"):
        ranks.run(lambda mesh: threading.Lock())


def test_sys_exit_is_an_error_of_that_rank(ranks: Ranks) -> None:
    with pytest.raises(RankError, match=r"rank \d: SystemExit: 3"):
        ranks.run(lambda mesh: sys.exit(3))


def test_transfers_come_back_with_the_results(ranks: Ranks) -> None:
    ranks.run(programs.total)
    assert [[(t.op, t.axis, t.num_bytes) for t in one] for one in ranks.transfers] == [[("all_reduce", "tp", 12)]] * 4
    ranks.run(lambda mesh: None)
    assert ranks.transfers == [[]] * 4


def test_bytes_on_the_wire(ranks: Ranks) -> None:
    fresh = Ranks(2)
    with pytest.raises(ValueError, match="no run with wire=True yet"):
        _ = fresh.wire
    ranks.run(lambda mesh: comm.all_reduce(torch.zeros(1 << 18), mesh["tp"]).sum().item(), wire=True)
    try:
        traffic = ranks.wire
    except ValueError as error:
        pytest.skip(str(error))
    assert traffic.shape == (4, 4)
    assert abs(traffic.sum() / (4 * 1.5 * (1 << 20)) - 1) < 0.01


def test_a_call_on_the_live_pool_starts_nothing(ranks: Ranks) -> None:
    """Nothing is started for it. How quick it is, benchmarks.launch measures."""
    ranks.run(programs.total)
    pids, pools = ranks.pids, client.server().num_pools
    for _ in range(20):
        ranks.run(programs.total)
    assert (ranks.pids, client.server().num_pools) == (pids, pools)
