"""Ranks: a warm pool of processes that run the same program, each on its own place in the mesh."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shardlab.comm.recorder import Empty
from shardlab.launch import carried, pickles, report
from shardlab.launch import wire as counters
from shardlab.launch.client import server
from shardlab.launch.errors import LaunchError
from shardlab.launch.interrupts import deferred_interrupts
from shardlab.launch.keywords import refuse_ambiguous
from shardlab.launch.live import Live
from shardlab.launch.preflight import check_room, choose_backend
from shardlab.launch.run import Run
from shardlab.theory.degrees import Plan
from shardlab.theory.ledger import Transfer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Ranks:
    """`with Ranks(4) as ranks: results = ranks.run(program, *args)`: one result a rank.

    The processes start at the first run and stay warm. After an error they are all gone, and the next run
    starts fresh ones; the pool object goes on. Nothing outlives the notebook: not an interrupt, not a
    restart, not a kill -9.
    """

    def __init__(
        self, world_size: int, backend: str | None = None, timeout_s: float = 60.0, *, batch: bool = True
    ) -> None:
        """`backend`: "gloo" (CPU), "nccl" (one GPU a rank), or None for NCCL where there are GPUs enough,
        else gloo.

        `timeout_s` is for one run, start-up included. `batch=False` leaves the scheduler's default (to
        compare).
        """
        if not isinstance(world_size, int) or world_size < 1:
            raise ValueError(f"world_size={world_size!r}: give a positive number of ranks")
        self.world_size = world_size
        self.timeout_s = timeout_s
        self.late_s: list[float] = []  # of the last run: how long the others waited for each rank alone (with check)
        self.exit_codes: dict[int, int] = {}  # of the ranks that close() ended
        self._batch, self._wanted = batch, backend
        self._backend: str | None = None
        self._live: Live | None = None
        self._num_runs = 0
        self._busy = False
        self._last: Run | None = None
        self._said: set[str] = set()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ running

    def run(
        self,
        program: Callable[..., Any],
        *args: Any,
        plan: Plan | None = None,
        wire: bool | None = None,
        timeout_s: float | None = None,
        check: bool | None = None,
        collectives: carried.Collectives = None,
        **kwargs: Any,
    ) -> list[Any]:
        """`program(mesh, *args, **kwargs)` on every rank of `plan` (default tp over all): its results, in rank order.

        What was recorded of the run, and measured, is in `last`.

        `check` (default True): ranks compare op, shape and dtype before each collective (turn it off to time one).
        `wire` (default False): read the system's socket counters around the run. A program with a parameter of one of
        these names takes it from functools.partial(program, plan=...). Tensors travel as copies. A plan smaller than
        the pool runs on its first ranks. `collectives`: what runs the axes' collectives. None or "backend"; "cheapest",
        what is faster in shared memory; "shared_memory", all of them; or algorithms.choose.calibrated(model). The
        record is the same, the wire is empty.

        Every run starts alike on a warm rank: default dtype and device, grad mode, threads, environment, folder and
        sys.path are those that the rank started with, and torch, random and numpy are seeded with the rank's number.
        So unseeded random numbers differ from rank to rank, and are the same in the next run. After a reload of a
        module the ranks start again, and a line says so.

        Raises RankError, RankDied, RankTimeout, LaunchError; before any process starts TypeError for what cannot be
        sent, and for a keyword that could be the program's as well as this function's, and ValueError for a plan
        that does not fit.
        """
        given = {"plan": plan, "wire": wire, "timeout_s": timeout_s, "check": check, "collectives": collectives}
        refuse_ambiguous(program, args, [name for name, value in given.items() if value is not None])
        plan = plan or Plan(tp=self.world_size)
        if plan.world_size > self.world_size:
            raise ValueError(f"{plan} needs {plan.world_size} ranks, the pool has {self.world_size}")
        call, make = pickles.dump_call(program, args, kwargs), carried.maker(collectives)
        limit_s, check = self.timeout_s if timeout_s is None else timeout_s, check is not False
        self._last = None
        deadline = time.monotonic() + limit_s
        try:
            live = self._start(deadline, limit_s)
            self._busy = True
            if plan not in live.plans:
                self._call(live, None, plan, check, deadline, limit_s)
            if make is not None:
                if (plan, make) not in live.carried:
                    prepare = pickles.dump_call(carried.prepare, (make,), {})
                    self._call(live, prepare, plan, check, deadline, limit_s)
                    live.carried.add((plan, make))
                call = pickles.dump_call(carried.under, (make, call), {})
            before = self._counters(live, plan) if wire else "the last run was not given wire=True"
            replies = self._call(live, call, plan, check, deadline, limit_s)
            results, transfers, empty = (list(column) for column in zip(*replies, strict=True))
            traffic = before if isinstance(before, str) else counters.between(before, self._counters(live, plan))
            self._last = Run(results, plan, transfers, empty, traffic)
            if wire and isinstance(traffic, str) and traffic not in self._said:  # once is enough for a sweep
                self._said.add(traffic)
                print(f"no bytes on the wire: {traffic}; ranks.last.bytes are those recorded")
            self._busy = False
        except BaseException:
            self._kill()
            raise
        return results

    def _counters(self, live: Live, plan: Plan) -> counters.Snapshot | str:
        """What the ranks' sockets have sent by now, or why it cannot be read."""
        if self.backend == "nccl":
            return "NCCL moves its bytes over links that have no socket"
        return counters.try_snapshot([live.pids[rank] for rank in range(plan.world_size)])

    def _call(
        self, live: Live, call: bytes | None, plan: Plan, check: bool, deadline: float, limit_s: float
    ) -> list[tuple[Any, list[Transfer], dict[Empty, int]]]:
        """Have `call` run on the plan's ranks; None has every rank of the pool make the plan's groups.

        Each rank's result, transfers and empty calls.
        """
        self._num_runs += 1
        run, active = self._num_runs, range(self.world_size if call is None else plan.world_size)
        started = time.monotonic()
        with live.asked(run, plan, check, call, active) as gather:
            good = gather.wait(deadline, lambda done: report.left_early(live.rows(run, plan.world_size), done))
        rows = live.rows(run, plan.world_size)
        if gather.failures:
            raise report.failed(gather.failures.values(), gather.details, rows)
        if not good:
            raise report.timed_out(gather.missing, live.pids, rows, limit_s, live.folder)
        live.plans.add(plan)
        for line in report.stragglers(rows, time.monotonic() - started):
            print(line)
        self.late_s = [row.late_s for row in rows]
        return [gather.replies[rank][2:] for rank in active]

    @property
    def last(self) -> Run:
        """The last run: results, transfers by rank and axis, traffic, agrees(). ValueError where none has succeeded."""
        if self._last is None:
            raise ValueError("no run to show: none has been made yet, or the last one failed")
        return self._last

    @property
    def transfers(self) -> list[list[Transfer]]:
        """Per rank, the recorded transfers of the last run; none where there is no such run."""
        return [] if self._last is None else self._last.transfers

    @property
    def wire(self) -> NDArray[np.int64]:
        """traffic[T, T] of the last run: bytes that rank i sent to rank j. ValueError says why none."""
        if self._last is None:
            raise ValueError("no bytes on the wire to show: no run with wire=True yet")
        return self._last.traffic

    # ----------------------------------------------------------------------------------------- start and stop

    @property
    def backend(self) -> str:
        """ "gloo" or "nccl"; chosen, and said in one line, at the first need."""
        if self._backend is None:
            self._backend, line = choose_backend(self.world_size, self._wanted)
            print(line)
        return self._backend

    @property
    def pids(self) -> list[int]:
        """Process numbers, in rank order; empty while nothing runs."""
        return [pid for _, pid in sorted(self._live.pids.items())] if self._live else []

    def start(self) -> Ranks:
        """Start the processes now rather than at the first run."""
        try:
            self._start(time.monotonic() + self.timeout_s, self.timeout_s)
        except BaseException:
            self._kill()
            raise
        return self

    def _start(self, deadline: float, limit_s: float) -> Live:
        if self._live is not None and (self._busy or not self._live.healthy):
            self._kill()  # interrupted at the worst moment, or a rank died while nobody looked
        if self._live is not None and (reloaded := self._live.server.modules.reloaded()):
            more = f" and {len(reloaded) - 1} more" if len(reloaded) > 1 else ""
            print(f"{reloaded[0]}{more} was reloaded: the ranks start again, with the new code")
            self._kill()
        if self._live is not None:
            return self._live
        backend = self.backend
        with deferred_interrupts():
            launcher = server()
            check_room(self.world_size, backend, launcher.root)
            try:
                live = self._live = Live(launcher, self.world_size, backend, self._batch)
            except OSError as error:
                raise LaunchError(f"the ranks cannot be set up in {launcher.root}: {error}") from error
        self._busy = True
        gather = live.gather()
        if not gather.wait(deadline):
            live.print_output()
            if gather.failures:
                raise LaunchError(f"the ranks did not start: {report.in_order(gather.failures.values())[0]}")
            raise LaunchError(f"the ranks did not start within {limit_s:g} s: waiting for {gather.missing}")
        self._busy = False
        return live

    def _kill(self) -> None:
        with deferred_interrupts():
            live, self._live, self._busy = self._live, None, False
            if live is not None:
                live.kill()

    def close(self) -> None:
        """End the ranks: each leaves its process group and exits. A later run starts fresh ones."""
        try:
            if self._live is not None and not self._busy and self._live.healthy:
                self.exit_codes = self._live.stop()
                self._live.print_output()
        finally:
            self._kill()
