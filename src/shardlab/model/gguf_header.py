"""The header of a GGUF file: metadata and the table of tensors, every length checked before it is believed.

The gguf package reads headers too, but makes an array of every token of the vocabulary, which takes seconds a
rank, and trusts what it reads. Format: ggml's docs/gguf.md, versions 2 and 3, little endian.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from shardlab.model.source import WeightsError

Value = int | float | bool | str | tuple[int | float | bool, ...] | None
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_KEPT_ARRAY = 4096  # longer arrays are vocabularies: skipped


@dataclass(frozen=True)
class Stored:
    """One tensor: its shape in torch's order (GGUF lists it reversed), its quantization, where its bytes
    start.
    """

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    start: int

    @property
    def block(self) -> tuple[int, int]:
        """Elements of a block, bytes of a block."""
        return GGML_QUANT_SIZES[self.kind]


@dataclass(frozen=True)
class Header:
    """Metadata by key (long arrays and arrays of strings: None), tensors by name."""

    metadata: dict[str, Value]
    tensors: dict[str, Stored]


def read_header(path: Path) -> Header:
    """Raises WeightsError for a file that is not GGUF, is cut short, or whose header points outside the
    file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Cursor(path, data).header()
    except (OSError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(path, f"not a GGUF file: {error}") from None


class _Cursor:
    """Reads forward through the header, never past the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at, self.size = path, data, 0, len(data)

    def header(self) -> Header:
        if self.data[:4] != b"GGUF":
            raise WeightsError(
                self.path, "neither a model folder nor a GGUF file (it does not begin with GGUF)"
            )
        self.at = 4
        version = self.number("I")
        if version not in (2, 3):
            raise WeightsError(self.path, f"GGUF version {version}; supported: 2, 3")
        num_tensors, num_values = self.number("Q"), self.number("Q")
        metadata: dict[str, Value] = {}
        for _ in range(num_values):
            key = self.string()
            metadata[key] = self.value(self.number("I"))
        entries = [self.tensor() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise WeightsError(self.path, f"general.alignment={alignment!r}")
        first = -(-self.at // alignment) * alignment
        tensors: dict[str, Stored] = {}
        for name, stored in entries:
            if name in tensors:
                raise WeightsError(self.path, "listed twice", name)
            tensors[name] = self.placed(name, Stored(stored.shape, stored.kind, first + stored.start))
        return Header(metadata, tensors)

    def tensor(self) -> tuple[str, Stored]:
        name = self.string()
        num_dims = self.number("I")
        if not 1 <= num_dims <= 4:
            raise WeightsError(self.path, f"{num_dims} dims", name)
        shape = tuple(self.number("Q") for _ in range(num_dims))[::-1]
        kind, start = self.number("I"), self.number("Q")
        if kind not in GGMLQuantizationType.__members__.values():
            raise WeightsError(self.path, f"unknown quantization {kind}", name)
        return name, Stored(shape, GGMLQuantizationType(kind), start)

    def placed(self, name: str, stored: Stored) -> Stored:
        elements, size = stored.block
        total = 1
        for length in stored.shape:
            total *= length
        if stored.shape[-1] % elements:
            raise WeightsError(
                self.path, f"rows of {stored.shape[-1]} do not fill blocks of {elements}", name
            )
        if stored.start + total // elements * size > self.size:
            raise WeightsError(
                self.path, "its bytes lie beyond the end of the file: the file is cut short", name
            )
        return stored

    def number(self, kind: str) -> int:
        return int(self.scalar(kind))

    def scalar(self, kind: str) -> int | float | bool:
        (value,) = struct.unpack_from(f"<{kind}", self.data, self.take(struct.calcsize(f"<{kind}")))
        return value

    def string(self) -> str:
        length = self.number("Q")
        start = self.take(length)
        return self.data[start : start + length].decode("utf-8", errors="replace")

    def value(self, kind: int) -> Value:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array(self.number("I"), self.number("Q"))
        if kind not in _SCALARS:
            raise WeightsError(self.path, f"metadata of unknown type {kind} at byte {self.at}")
        return self.scalar(_SCALARS[kind])

    def array(self, kind: int, count: int) -> Value:
        if kind == _STRING:
            for _ in range(count):
                self.take(self.number("Q"))
            return None
        if kind not in _SCALARS:
            raise WeightsError(self.path, f"metadata array of unsupported type {kind} at byte {self.at}")
        start = self.take(count * struct.calcsize(f"<{_SCALARS[kind]}"))
        if count > _KEPT_ARRAY:
            return None
        return struct.unpack_from(f"<{count}{_SCALARS[kind]}", self.data, start)

    def take(self, num_bytes: int) -> int:
        """Step over bytes and say where they start."""
        start = self.at
        if num_bytes > self.size - start:
            raise WeightsError(self.path, f"cut short: the header asks for {num_bytes} bytes at byte {start}")
        self.at = start + num_bytes
        return start
