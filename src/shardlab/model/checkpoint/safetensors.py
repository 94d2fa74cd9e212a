"""A Hugging Face folder: config.json with one safetensors file, or several and an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from shardlab.layers.sharding import Part
from shardlab.model.checkpoint import names
from shardlab.model.checkpoint.source import PICKLED_SUFFIXES, WeightsError, refuse_pickle
from shardlab.model.config import read_config

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_INDEX_BYTES = 1 << 26
DTYPES = ("F64", "F32", "F16", "BF16")


class SafetensorsSource:
    """The checkpoint of a folder. Opening reads headers; `read` touches only the slice that is asked for.

    Raises ConfigError for the config, WeightsError for anything odd in index or files.
    """

    def __init__(self, folder: Path) -> None:
        self.config = read_config(folder)
        self.folder = folder
        self._file_of = _files(folder)
        self._open: dict[Path, Any] = {}
        self.shapes = {name: self._shape(name) for name in self._file_of}

    def name_of(self, name: str) -> str:
        return names.hugging_face(name)

    def file_of(self, stored_name: str) -> Path:
        return self._file_of.get(stored_name, self.folder)

    def may_ignore(self, stored_name: str) -> bool:
        # Llama 2 folders carry the frequencies of the rotary embedding; a tied output matrix may be stored
        # twice.
        tied = self.config.shape.tied_embeddings and stored_name == "lm_head.weight"
        return tied or stored_name.endswith(".rotary_emb.inv_freq")

    def read(self, stored_name: str, part: Part) -> torch.Tensor:
        path = self._file_of[stored_name]
        try:
            return self._handle(path).get_slice(stored_name)[part.index]
        except (SafetensorError, OSError) as error:
            raise WeightsError(path, str(error), stored_name) from None

    def int4(self, stored_name: str, part: Part, device: torch.device) -> None:
        return None  # no such dtype is read here

    def _handle(self, path: Path) -> Any:
        if path not in self._open:
            self._open[path] = _open(path)
        return self._open[path]

    def _shape(self, name: str) -> tuple[int, ...]:
        path = self._file_of[name]
        stored = self._handle(path).get_slice(name)
        if stored.get_dtype() not in DTYPES:
            raise WeightsError(path, f"dtype {stored.get_dtype()}; supported: {', '.join(DTYPES)}", name)
        return tuple(stored.get_shape())


def _open(path: Path) -> Any:
    refuse_pickle(path)
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(path, f"not a valid safetensors file: {error}") from None


def _files(folder: Path) -> dict[str, Path]:
    """Tensor name -> its file, as the index or the single file says; both looked at, neither believed."""
    if (folder / INDEX).is_file():
        return _indexed(folder)
    single = folder / SINGLE
    if not single.is_file():
        pickled = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICKLED_SUFFIXES)
        for path in pickled:
            refuse_pickle(path)
        raise WeightsError(folder, f"neither {SINGLE} nor {INDEX} is there")
    return dict.fromkeys(_open(single).keys(), single)


def _indexed(folder: Path) -> dict[str, Path]:
    index = folder / INDEX
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise WeightsError(index, f"larger than {MAX_INDEX_BYTES} bytes")
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        entries = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(index, f"not a valid index: {error!r}") from None
    for name, file in entries.items():
        if Path(file).name != file or file in (".", ".."):
            raise WeightsError(index, f"its file {file!r} is not a file of this folder", name)
    files = sorted(set(entries.values()))
    for file in files:
        if not (folder / file).is_file():
            raise WeightsError(folder / file, f"not found, though {INDEX} names it")
    for file in files:
        path = folder / file
        held = set(_open(path).keys())
        listed = {name for name, where in entries.items() if where == file}
        if held != listed:
            name = sorted(held ^ listed)[0]
            reason = f"{INDEX} says it is here; it is not" if name in listed else f"here, but not in {INDEX}"
            raise WeightsError(path, reason, name)
    return {name: folder / file for name, file in entries.items()}
