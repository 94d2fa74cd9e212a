"""Every kernel and every configuration goes through the real compiler and ptxas for an H100, without one.

The interpreter proves what a kernel computes. This proves that it is a GPU program at all, that no register spills, and
that a block's tiles fit the chip's shared memory.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from shardlab_kernels import compile_only, launch

ROOT = Path(__file__).resolve().parents[2]
AREAS = sorted(path.stem for path in Path(__file__).parent.glob("calls_*.py"))
ARCH = "sm_90"
pytestmark = pytest.mark.timeout(300)  # an area takes half a minute where nothing is in Triton's cache


@functools.cache
def compiled(area: str) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.compile_calls", area, ARCH]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("area", AREAS)
def test_no_register_spills(area: str) -> None:
    spilled = [(one["call"], one["name"], one["meta"], one["spilled_bytes"]) for one in compiled(area)]
    assert [one for one in spilled if one[-1]] == []


@pytest.mark.parametrize("area", AREAS)
def test_tiles_fit_shared_memory(area: str) -> None:
    room = compile_only.SHARED_BYTES[ARCH]
    held = [(one["call"], one["name"], one["meta"], one["shared_bytes"]) for one in compiled(area)]
    assert [one for one in held if one[-1] > room] == []


def test_every_kernel_has_a_sample_call() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "kernels/shardlab_kernels").glob("*.py"))
    kernels = {line.split("(")[0].removeprefix("def ") for line in sources.splitlines() if line.startswith("def _")}
    kernels = {name for name in kernels if name.endswith("_kernel")}
    assert kernels - {one["name"] for area in AREAS for one in compiled(area)} == set()


def test_the_compiler_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="sm_70.*sm_90"), compile_only.compiled("sm_70"):
        pass
    if launch.INTERPRETED:
        with pytest.raises(RuntimeError, match="TRITON_INTERPRET"), compile_only.compiled(ARCH):
            pass


def test_without_interpreter_and_driver_a_launch_is_refused() -> None:
    """In a process of its own: no TRITON_INTERPRET, CPU tensors."""
    code = (
        "import torch; from shardlab_kernels.silu_mul import silu_mul\n"
        "try: silu_mul(torch.ones(2), torch.ones(2))\n"
        "except ValueError as error: print(error)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "gate is on cpu" in done.stdout and "TRITON_INTERPRET=1" in done.stdout


def test_one_device_is_needed() -> None:
    with pytest.raises(ValueError, match="a is on cpu, b on meta"):
        launch.check_device(a=torch.zeros(1), b=torch.zeros(1, device="meta"))
