"""Compile kernels for a GPU that is not there: what the compiler and ptxas say, before anybody owns the card.

    with compiled("sm_90") as found:
        flash_attention(q, k, v)      # CPU tensors of the right shape and dtype; nothing runs
    found[0].registers, found[0].spilled_bytes, found[0].shared_bytes

Every configuration of an autotuned kernel is compiled. The interpreter must be off.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget

from shardlab_kernels import launch

# Compute capability -> shared memory that one block may use, bytes. CUDA C++ Programming Guide, Table "Technical
# Specifications per Compute Capability".
SHARED_BYTES = {"sm_80": 163 << 10, "sm_86": 99 << 10, "sm_89": 99 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10}


@dataclass(frozen=True)
class Compiled:
    """One kernel as ptxas made it."""

    name: str
    meta: str  # the configuration: "BLOCK_M=128, num_warps=8"
    registers: int  # a thread
    spilled_bytes: int  # a thread's local memory: registers that did not fit
    shared_bytes: int  # a block
    ptx: str


@contextmanager
def compiled(arch: str) -> Iterator[list[Compiled]]:
    """Within it, launches compile for `arch` ("sm_90") instead of running, and are added to the list.

    Raises ValueError for an architecture that SHARED_BYTES lacks, RuntimeError in the interpreter.
    """
    _check(arch)
    found: list[Compiled] = []

    def start(kernel: Any, grid: Any, *args: Any, **meta: Any) -> None:
        found.extend(_describe(one()) for one in _every_configuration(kernel, args, meta))

    with _instead_of_launching(start, arch):
        yield found


@contextmanager
def collected(arch: str) -> Iterator[list[list[Callable[[], Any]]]]:
    """Within it, launches are added to the list, each as calls that compile its configurations, one after the other.

    A call works in a process that stands in for `arch` (stand_in). Raises as `compiled` does.
    """
    _check(arch)
    found: list[list[Callable[[], Any]]] = []

    def start(kernel: Any, grid: Any, *args: Any, **meta: Any) -> None:
        found.append(list(_every_configuration(kernel, args, meta)))

    with _instead_of_launching(start, arch):
        yield found


def stand_in(arch: str) -> Any:
    """From here on Triton compiles for `arch`, with no GPU. -> what it would have asked before."""
    runtime: Any = triton.runtime.driver
    before = runtime._active
    runtime.set_active(_NoGPU(int(arch.removeprefix("sm_"))))
    return before


def _check(arch: str) -> None:
    if arch not in SHARED_BYTES:
        raise ValueError(f"arch={arch!r}; allowed: {', '.join(SHARED_BYTES)}")
    if launch.INTERPRETED:
        raise RuntimeError("TRITON_INTERPRET is set: kernels are Python functions, and there is nothing to compile")


@contextmanager
def _instead_of_launching(start: Callable[..., None], arch: str) -> Iterator[None]:
    before = stand_in(arch)
    launch._start = start
    try:
        yield
    finally:
        launch._start = None
        cast(Any, triton.runtime.driver)._active = before


def _every_configuration(kernel: Any, args: tuple[Any, ...], meta: dict[str, Any]) -> Iterator[Callable[[], Any]]:
    """What compiles the kernel; an autotuned one, once for each of its configurations."""
    if not isinstance(kernel, triton.runtime.Autotuner):
        yield partial(kernel.warmup, *args, grid=(1,), **meta)
        return
    for config in kernel.configs:
        yield partial(_one_configuration, kernel, config, args, meta)


def _one_configuration(kernel: Any, config: triton.Config, args: tuple[Any, ...], meta: dict[str, Any]) -> Any:
    if config.pre_hook is not None:  # as before a real launch: it gives tensor descriptors their block shapes
        config.pre_hook({**dict(zip(kernel.arg_names, args, strict=False)), **meta, **config.all_kwargs()})
    return kernel.fn.warmup(*args, grid=(1,), **meta, **config.all_kwargs())


class _NoGPU:
    """As much of a driver as the compiler asks for."""

    def __init__(self, capability: int) -> None:
        self._capability = capability
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._capability  # the cache of compiled kernels is kept by device

    def get_current_stream(self, device: int) -> int:
        return 0


def _describe(kernel: Any) -> Compiled:
    usage = _resource_usage(kernel.asm["cubin"])
    options = {"num_warps": kernel.metadata.num_warps, "num_stages": kernel.metadata.num_stages}
    names = kernel.src.fn.arg_names
    constants = {names[path[0]]: value for path, value in kernel.src.constants.items() if len(path) == 1}
    meta = {name: value for name, value in constants.items() if name.isupper() and value is not None} | options
    return Compiled(
        name=kernel.metadata.name,
        meta=", ".join(f"{name}={value}" for name, value in meta.items()),
        registers=usage["REG"],
        spilled_bytes=usage["STACK"] + usage["LOCAL"],
        shared_bytes=kernel.metadata.shared,
        ptx=kernel.asm["ptx"],
    )


def _resource_usage(cubin: bytes) -> dict[str, int]:
    """{"REG": 64, "STACK": 0, "SHARED": 0, "LOCAL": 0, ...} of the one kernel in a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        cuobjdump = knobs.nvidia.cuobjdump.path
        said = subprocess.run([cuobjdump, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", said)}
