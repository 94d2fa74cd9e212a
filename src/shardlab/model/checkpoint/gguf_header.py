"""The header of a GGUF file, as the gguf package reads it: metadata, and where each tensor's bytes are.

Two things are ours. The package makes an array of every token of the vocabulary, which takes a rank two seconds:
`_Reader` steps over long lists and lists of strings instead. And a damaged file gives a WeightsError, which names the
tensor where its bytes are not all there.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, ReaderField, ReaderTensor

from shardlab.model.checkpoint.source import WeightsError

MAGIC = b"GGUF"
_KEPT = 4096  # longer lists are vocabularies


@dataclass(frozen=True)
class Header:
    """Metadata by key (long lists and lists of strings are left out), tensors by name.

    A tensor's `data` is a view of the file: nothing is read before it is looked at.
    """

    metadata: dict[str, Any]
    tensors: dict[str, ReaderTensor]


def read_header(path: Path) -> Header:
    """Raises WeightsError for a file that is not GGUF, is cut short, or whose header points outside the file."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise WeightsError(path, "neither a model folder nor a GGUF file (it does not begin with GGUF)")
        reader = _Reader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items() if field.data}
    except WeightsError:
        raise
    except _CutShort as error:
        reason = "its bytes lie beyond the end of the file: the file is cut short"
        raise WeightsError(path, reason, str(error)) from None
    except IndexError:  # a read beyond the end
        raise WeightsError(path, "not a sound GGUF file: its header is cut short") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, ArithmeticError) as error:
        raise WeightsError(path, f"not a sound GGUF file: {error}") from None
    return Header(metadata, {tensor.name: tensor for tensor in reader.tensors})


class _CutShort(Exception):
    """Of a tensor, by its name."""


class _Reader(GGUFReader):
    def _build_tensors(self, start_offs: int, fields: list[ReaderField]) -> None:
        for field in fields:
            *_, dims, kind, offset = field.parts
            elements, size = GGML_QUANT_SIZES[GGMLQuantizationType(int(kind[0]))]
            stop = start_offs + int(offset[0]) + math.prod(map(int, dims)) // elements * size
            if stop > len(self.data):
                raise _CutShort(field.name)
        super()._build_tensors(start_offs, fields)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind = int.from_bytes(self.data[orig_offs : orig_offs + 4].tobytes(), "little")
        count = int.from_bytes(self.data[orig_offs + 4 : orig_offs + 12].tobytes(), "little")
        end = len(self.data)
        skipped = [GGUFValueType.ARRAY]
        if kind != GGUFValueType.STRING:
            item = self.gguf_scalar_to_np.get(GGUFValueType(kind))
            if item is None or count > end - orig_offs:
                raise ValueError(f"a list of {count} of type {kind} in its metadata")
            if count <= _KEPT:
                return super()._get_field_parts(orig_offs, raw_type)
            return 12 + count * np.dtype(item).itemsize, [], [], skipped
        data, at = self.data.data, orig_offs + 12
        for _ in range(count):
            if at + 8 > end:
                raise IndexError
            (length,) = struct.unpack_from("<Q", data, at)
            at += 8 + length
        return at - orig_offs, [], [], skipped
