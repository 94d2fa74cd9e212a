"""What a rank does: settle in, join the process group, then run one program after another until it is to stop."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import socket
import sys
import time
import traceback
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from shardlab.comm.flight import Flight
from shardlab.comm.mesh import Mesh, make_groups
from shardlab.comm.recorder import Recorder
from shardlab.launch import frames, pickles
from shardlab.launch.state import ProcessState
from shardlab.measure.machine import num_cores
from shardlab.theory.degrees import Plan

STACK_SIGNAL = signal.SIGUSR1  # a rank answers it with its stack, in C, even while it waits inside gloo
# The parent is the judge of time: it kills ranks that are late. gloo's own limit must never come first.
_NO_LIMIT = timedelta(days=7)
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def main(rank: int, fd: int, *, parent: int, config: dict[str, Any]) -> int:
    """Be rank `rank` of the pool that `config` describes, over the socket `fd`. Returns the exit status."""
    _settle(rank, parent, config)
    sock = socket.socket(fileno=fd)
    flight = Flight(os.path.join(config["folder"], "flight"), config["world_size"], rank)
    device = _join(rank, config)
    frames.send(sock, pickles.dumps(("ready",)))
    try:
        _serve(rank, sock, Recorder(flight), flight, device)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()  # without it, one exit in twelve aborts
    return 0


def _settle(rank: int, parent: int, config: dict[str, Any]) -> None:
    """Make sure that this process ends with its parent, and takes no more of the machine than its share."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        # SIGKILL, not torch's own SIGINT: a rank that is stopped, or stuck in C, never sees a SIGINT.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_NAME, f"shardlab {rank}".encode())
        if os.getppid() != parent:  # it went between the fork and the prctl
            os._exit(1)
    if config["batch"] and hasattr(os, "SCHED_BATCH"):
        # Ranks that outnumber cores take turns in longer slices: gloo is about five times as fast.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.chdir(config["cwd"])
    sys.path[:] = config["sys_path"]
    os.environ.clear()
    os.environ.update(config["environ"])
    os.environ.update(
        SHARDLAB_RANK_OF=config["pool"],
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(config["world_size"]),
        GLOO_SOCKET_IFNAME="lo" if sys.platform == "linux" else "lo0",
    )
    out = os.open(output_file(config["folder"], rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(out)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    stack = open(stack_file(config["folder"], rank), "w")  # faulthandler keeps the descriptor
    faulthandler.register(STACK_SIGNAL, file=stack, all_threads=False)
    faulthandler.enable()  # a crash leaves its stack in the rank's output
    torch.set_num_threads(max(1, num_cores() // config["world_size"]))


def output_file(folder: str, rank: int) -> str:
    return os.path.join(folder, f"rank{rank}.out")


def stack_file(folder: str, rank: int) -> str:
    return os.path.join(folder, f"rank{rank}.stack")


def _join(rank: int, config: dict[str, Any]) -> torch.device:
    """Meet the other ranks in a file of the pool's private folder: no port, nothing that the network can reach.

    Nor any stall. A TCPStore formats the name of each peer, which is a reverse DNS look-up of 127.0.0.1:
    where one answer gets lost, all ranks wait out the resolver's time-out. Eight ranks, 40 launches: 2-4
    stalls, of 5.0 s as it comes, 2.0 s with RES_OPTIONS=timeout:2, 1.0 s with timeout:1. Over a FileStore,
    with gloo bound to lo by name, no name is looked up: none in 200 launches of 4 ranks, none in 500 of 8.
    """
    device = torch.device("cpu")
    if config["backend"] == "nccl":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    world_size = config["world_size"]
    store = FileStore(os.path.join(config["folder"], "store"), world_size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=_NO_LIMIT)
    return device


def _serve(rank: int, sock: socket.socket, recorder: Recorder, flight: Flight, device: torch.device) -> None:
    meshes: dict[Plan, Mesh] = {}
    state = ProcessState(rank, device)
    state.reset()
    while (message := frames.receive(sock)) is not None:
        request = pickles.loads(message)
        if request[0] == "stop":
            return
        _, run, plan, check, call = request
        flight.begin(run)
        recorder.start(check=check)
        try:
            if call is None:  # a plan that is new to the pool: every rank takes part in making its groups
                if rank < plan.world_size:
                    meshes[plan] = Mesh.build(plan, rank, recorder, device)
                else:
                    make_groups(plan)
                result = None
            else:
                program, args, kwargs = _load_call(call)
                result = program(meshes[plan], *args, **kwargs)
                recorder.finish()
            sys.stdout.flush()
            sys.stderr.flush()
            reply = pickles.dumps(("result", run, result, recorder.transfers, dict(recorder.empty)))
        except BaseException as error:
            reply = pickles.dumps(("error", run, time.monotonic(), *_describe(error)))
            sys.stdout.flush()
            sys.stderr.flush()
        frames.send(sock, reply)
        state.reset()  # for the next program; nobody waits for it now


def _load_call(call: bytes | str) -> Any:
    """The call itself, or the file that holds it when it is large (written once, read by every rank)."""
    if isinstance(call, str):
        with open(call, "rb") as file:
            call = file.read()
    return pickles.loads(call)


Frame = tuple[str, int, str, str]  # file, line number, function, the line as this process sees it


def _describe(error: BaseException) -> tuple[str, str, list[tuple[str, str, list[Frame]]]]:
    """Type, message, and the chain of (type, message, frames), outermost last. The parent knows cells' sources."""
    chain: list[tuple[str, str, list[Frame]]] = []
    link: BaseException | None = error
    while link is not None and len(chain) < 8:
        frames_of = traceback.extract_tb(link.__traceback__)
        own = [f for f in frames_of if f.filename != __file__]
        chain.insert(
            0,
            (
                type(link).__name__,
                _text(link),
                [(f.filename, f.lineno or 0, f.name, f.line or "") for f in own],
            ),
        )
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return type(error).__name__, _text(error), chain


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:
        return f"(its message cannot be shown: {type(second).__name__})"
