"""Ranks: a warm pool of processes that run the same program, each on its own place in the mesh."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shardlab.launch import carried, frames, pickles, report
from shardlab.launch import wire as wire_counters
from shardlab.launch.client import server
from shardlab.launch.errors import LaunchError
from shardlab.launch.interrupts import deferred_interrupts
from shardlab.launch.live import Live
from shardlab.launch.preflight import check_room, choose_backend
from shardlab.theory.degrees import Plan
from shardlab.theory.ledger import Transfer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LARGE_CALL = 1 << 20  # bytes; above it the call is written to a file once, rather than to every rank's socket


class Ranks:
    """`with Ranks(4) as ranks: results = ranks.run(program, *args)`: one result a rank.

    The processes start at the first run and stay warm. After an error they are all gone, and the next run
    starts fresh ones; the pool object goes on. Nothing outlives the kernel: not an interrupt, not a
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
        self.transfers: list[list[Transfer]] = []  # of the last run, one list a rank
        self.late_s: list[float] = []  # of the last run: how long the others waited for each rank alone (with check)
        self.exit_codes: dict[int, int] = {}  # of the ranks that close() ended
        self._batch, self._wanted = batch, backend
        self._backend: str | None = None
        self._live: Live | None = None
        self._num_runs = 0
        self._busy = False
        self._wire: NDArray[np.int64] | str = "no run with wire=True yet"

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
        wire: bool = False,
        timeout_s: float | None = None,
        check: bool = True,
        collectives: carried.Collectives = None,
        **kwargs: Any,
    ) -> list[Any]:
        """`program(mesh, *args, **kwargs)` on every rank of `plan` (default tp over all): its results, in rank order.

        `check`: ranks compare op, shape and dtype before each collective (turn it off to time one). `wire`:
        read the kernel's socket counters around the run. Tensors travel as copies. A plan smaller than the
        pool runs on its first ranks. `collectives`: what runs the axes' collectives. None or "backend"; "cheapest",
        what is faster in shared memory; "shared_memory", all of them; or algorithms.choose.calibrated(model). The
        record is the same, the wire is empty. Raises RankError, RankDied, RankTimeout, LaunchError; TypeError for
        what cannot be sent, and ValueError for a plan that does not fit, both before any process starts.
        """
        plan = plan or Plan(tp=self.world_size)
        if plan.world_size > self.world_size:
            raise ValueError(f"{plan} needs {plan.world_size} ranks, the pool has {self.world_size}")
        call, make = pickles.dump_call(program, args, kwargs), carried.maker(collectives)
        limit_s = self.timeout_s if timeout_s is None else timeout_s
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
            before = self._snapshot(live, plan) if wire else None
            results = self._call(live, call, plan, check, deadline, limit_s)
            if wire:
                self._wire = self._traffic(live, plan, before)
            self._busy = False
        except BaseException:
            self._kill()
            raise
        return results

    def _call(
        self, live: Live, call: bytes | None, plan: Plan, check: bool, deadline: float, limit_s: float
    ) -> list[Any]:
        """Have `call` run on the plan's ranks; None has every rank of the pool make the plan's groups."""
        self._num_runs += 1
        run, active = self._num_runs, range(self.world_size if call is None else plan.world_size)
        where: bytes | str | None = call
        if call is not None and len(call) > _LARGE_CALL:
            where = os.path.join(live.folder, f"call{run}")
            with open(where, "wb") as file:
                file.write(call)
        request = frames.frame(pickles.dumps(("run", run, plan, check, where)))
        for rank in active:
            live.ranks[rank].put(request)
            live.ranks[rank].write()
        gather, started = live.gather(active), time.monotonic()
        try:
            good = gather.wait(deadline, lambda done: report.left_early(live.rows(run, plan.world_size), done))
        finally:
            live.print_output()
            if isinstance(where, str):
                os.unlink(where)
        rows = live.rows(run, plan.world_size)
        if gather.failures:
            raise report.failed(gather.failures.values(), gather.details, rows)
        if not good:
            raise report.timed_out(gather.missing, live.pids, rows, limit_s, live.folder)
        live.plans.add(plan)
        for line in report.stragglers(rows, time.monotonic() - started):
            print(line)
        self.late_s = [row.late_s for row in rows]
        self.transfers = [gather.replies[rank][3] for rank in active]
        return [gather.replies[rank][2] for rank in active]

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

    # -------------------------------------------------------------------------------------------- on the wire

    @property
    def wire(self) -> NDArray[np.int64]:
        """traffic[T, T] of the last run with wire=True: bytes that rank i sent to rank j. ValueError says why none."""
        if isinstance(self._wire, str):
            raise ValueError(f"no bytes on the wire to show: {self._wire}")
        return self._wire

    def _snapshot(self, live: Live, plan: Plan) -> Any:
        try:
            return wire_counters.snapshot([live.pids[rank] for rank in range(plan.world_size)])
        except wire_counters.WireUnavailable as error:
            return str(error)

    def _traffic(self, live: Live, plan: Plan, before: Any) -> NDArray[np.int64] | str:
        after = self._snapshot(live, plan)
        for snapshot in (before, after):
            if isinstance(snapshot, str):
                return snapshot
            if not snapshot.settled:  # then the difference is of two moments, not of a program
                return "the ranks' socket counters were still moving after a second"
        return wire_counters.matrix(before, after)
