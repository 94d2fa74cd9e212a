"""What a program may leave behind in its process, put back before the next one; random numbers that differ by rank."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class _Setting:
    """Something that the whole process shares: how to read it and how to set it."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]


def _environment() -> dict[bytes, bytes]:
    # As it is kept, where that can be had: to decode it all would be half of the whole reset.
    kept = getattr(os.environ, "_data", None)
    return dict(kept) if kept is not None else dict(os.environb)


def _set_environment(wanted: dict[bytes, bytes]) -> None:
    os.environb.clear()
    os.environb.update(wanted)


def _set_path(wanted: list[str]) -> None:
    sys.path[:] = wanted


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # the program has removed it
        return ""


_SETTINGS = (
    _Setting(torch.get_default_dtype, torch.set_default_dtype),
    _Setting(torch.get_default_device, lambda was: torch.set_default_device(None)),
    _Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    _Setting(torch.get_num_threads, torch.set_num_threads),
    _Setting(torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    _Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    _Setting(_folder, os.chdir),
    _Setting(lambda: list(sys.path), _set_path),
    _Setting(_environment, _set_environment),
)


class ProcessState:
    """The settings of this process as they were when it was made."""

    def __init__(self, rank: int, device: torch.device) -> None:
        self._rank, self._device = rank, device
        self._were = [setting.read() for setting in _SETTINGS]

    def reset(self) -> None:
        """Put every setting back, and seed torch, random and numpy by the rank."""
        for setting, was in zip(_SETTINGS, self._were, strict=True):
            if setting.read() != was:
                setting.write(was)
        torch.default_generator.manual_seed(self._rank)  # torch.manual_seed would queue a call for CUDA each time
        if self._device.type == "cuda":
            torch.cuda.manual_seed(self._rank)
        random.seed(self._rank)
        np.random.seed(self._rank)
