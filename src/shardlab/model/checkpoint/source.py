"""What every kind of checkpoint offers to the loader, the error it raises, and the refusal of pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from shardlab.layers.sharding import Part
from shardlab.model.config import ModelConfig
from shardlab_kernels.int4 import Int4Weight

PICKLED_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


class WeightsError(ValueError):
    """Weights that cannot be trusted or are not the model's. Names the file, and the tensor where there is one."""

    def __init__(self, path: Path, reason: str, tensor: str | None = None) -> None:
        super().__init__(f"{path}: {f'tensor {tensor!r}: ' if tensor else ''}{reason}")
        self.path, self.tensor, self.reason = path, tensor, reason

    def __reduce__(self) -> tuple[type[WeightsError], tuple[Path, str, str | None]]:
        return type(self), (self.path, self.reason, self.tensor)  # it travels from a rank to the parent


class WeightSource(Protocol):
    """An open checkpoint: headers read and checked, data not yet touched."""

    config: ModelConfig

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name in the checkpoint -> shape of the full tensor."""
        ...

    def name_of(self, name: str) -> str:
        """Our name of a full tensor -> its name in the checkpoint; with EACH in it where dim 0 is stored as tensors."""
        ...

    def file_of(self, stored_name: str) -> Path:
        """The file that holds, or should hold, this tensor."""
        ...

    def may_ignore(self, stored_name: str) -> bool:
        """Whether a tensor that the model does not use may be there."""
        ...

    def read(self, stored_name: str, part: Part) -> torch.Tensor:
        """This part of the tensor, and as little else as the format allows."""
        ...

    def int4(self, stored_name: str, part: Part, device: torch.device) -> Int4Weight | None:
        """This part in the 4 bits a weight that it is stored in; None where it is not, or cannot be cut so."""
        ...


EACH = "{each}"  # in a stored name: one tensor for each index of dim 0 (the experts of a layer)


def pieces(stored: str, part: Part) -> list[tuple[str, Part]]:
    """What has to be read for a part of a full tensor: stored tensors, and the part of each."""
    if EACH not in stored:
        return [(stored, part)]
    return [(stored.replace(EACH, str(index)), part.inner) for index in part.held[0]]


def refuse_pickle(path: Path) -> None:
    """Raises WeightsError for a pickled checkpoint, by its name or by its first bytes. Unpickling runs code."""
    advice = "pickled checkpoints can run code when opened and are refused; convert it to safetensors"
    if path.suffix.lower() in PICKLED_SUFFIXES:
        raise WeightsError(path, advice)
    if not path.is_file():
        raise WeightsError(path, "not found")
    with path.open("rb") as file:
        head = file.read(16)
    if head[8:9] == b"{":  # a safetensors header; its length may look like a pickle's first bytes
        return
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
        raise WeightsError(path, f"its first bytes are a pickle's or a zip archive's: {advice}")
