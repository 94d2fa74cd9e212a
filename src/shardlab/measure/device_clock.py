"""Seconds of what a device does: a GPU works on after the call that started it has returned."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def seconds_on(device: torch.device, call: Callable[[], object], calls: int) -> float:
    """Seconds of one of `calls` calls in a row, until the device has done them."""
    _finish(device)
    started = time.perf_counter()
    for _ in range(calls):
        call()
    _finish(device)
    return (time.perf_counter() - started) / calls


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
