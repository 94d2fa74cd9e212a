"""Parameters cut in more than one dim, from one stored tensor, from many, or from the blocks of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file, save_file
from torch import nn

from shardlab.layers.parameter import empty
from shardlab.layers.sharding import Part, unshard
from shardlab.model.checkpoint.gguf import GGUFSource
from shardlab.model.checkpoint.gguf_header import read_header
from shardlab.model.checkpoint.safetensors import SafetensorsSource
from shardlab.model.checkpoint.source import EACH, WeightsError, pieces
from shardlab.model.config import ModelConfig
from shardlab.model.load import check, fill
from shardlab.theory.split import even_split
from shardlab.theory.transformer import Shape

E, F, D = 5, 64, 96


class Holder(nn.Module):
    """w[E,F,D], E over ep and F over tp."""

    def __init__(self, ep: int, tp: int, place: tuple[int, int], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        part = Part.cut((E, F, D), {0: even_split(E, ep)[place[0]], 1: even_split(F, tp)[place[1]]})
        self.local_weight = empty(part, dtype, "meta")


class Stored:
    """A checkpoint of one parameter, under the name that it is given."""

    def __init__(self, source: Any, stored: str) -> None:
        self.source, self.stored, self.config = source, stored, ModelConfig(Shape(1, 8, 8, 1, 1, 8, 8))
        self.shapes = source.shapes

    def name_of(self, name: str) -> str:
        assert name == "weight"
        return self.stored

    def file_of(self, stored_name: str) -> Path:
        return Path("made up")

    def may_ignore(self, stored_name: str) -> bool:
        return False

    def read(self, stored_name: str, part: Part) -> torch.Tensor:
        return self.source.read(stored_name, part)

    def int4(self, stored_name: str, part: Part, device: torch.device) -> None:
        return None


class Folder:
    """The tensors of a safetensors file, by SafetensorsSource's own reading."""

    def __init__(self, path: Path, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, path)
        self.opened = object.__new__(SafetensorsSource)
        self.opened.folder, self.opened._open = path.parent, {}
        self.opened._file_of = dict.fromkeys(tensors, path)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in load_file(path).items()}

    def read(self, stored_name: str, part: Part) -> torch.Tensor:
        return self.opened.read(stored_name, part)


class GGUFBlocks:
    """One tensor w[E,F,D] in blocks of 32 along D, by GGUFSource's own reading."""

    def __init__(self, path: Path, name: str, full: np.ndarray) -> None:
        kind = gguf.GGMLQuantizationType.Q8_0
        writer = gguf.GGUFWriter(path, "llama")
        blocks = quantize(full, kind)
        self.full = torch.from_numpy(dequantize(blocks, kind))
        writer.add_tensor(name, blocks, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        self.opened = object.__new__(GGUFSource)
        self.opened.path, self.opened._header, self.opened._permuted = path, read_header(path), False
        self.opened.shapes = self.shapes = {name: full.shape}

    def read(self, stored_name: str, part: Part) -> torch.Tensor:
        return self.opened.read(stored_name, part)


@pytest.mark.parametrize(("ep", "tp"), [(1, 1), (2, 1), (1, 3), (2, 2), (3, 4), (4, 3)])
@pytest.mark.parametrize("layout", ["one tensor", "many tensors", "blocks"])
def test_experts_are_cut_over_ep_and_tp_from_whatever_holds_them(layout: str, ep: int, tp: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    full = torch.randn(E, F, D)
    if layout == "one tensor":
        source = Stored(Folder(tmp_path / "one", {"experts.gate": full}), "experts.gate")
    elif layout == "many tensors":
        each = {f"experts.{expert}.gate": full[expert].clone() for expert in range(E)}
        source = Stored(Folder(tmp_path / "many", each), f"experts.{EACH}.gate")
    else:
        blocks = GGUFBlocks(tmp_path / "blocks.gguf", "experts", full.numpy())
        source, full = Stored(blocks, "experts"), blocks.full
    shards, parts = [], []
    for expert_rank in range(ep):
        for rank in range(tp):
            holder = Holder(ep, tp, (expert_rank, rank))
            check(source, tmp_path, holder)
            fill(holder, source, tmp_path, torch.float32, torch.device("cpu"))
            shards.append(holder.local_weight.data)
            parts.append(holder.local_weight.part)
    assert torch.equal(unshard(shards, parts), full)


def test_a_missing_expert_is_named_on_a_rank_that_does_not_hold_it(tmp_path: Path) -> None:
    each = {f"experts.{expert}.gate": torch.zeros(F, D) for expert in range(E - 1)}
    source = Stored(Folder(tmp_path / "many", each), f"experts.{EACH}.gate")
    with pytest.raises(WeightsError, match=r"'experts.4.gate': missing; shape \(64, 96\)"):
        check(source, tmp_path, Holder(5, 1, (0, 0)))
    part = Part.cut((E, F, D), {0: range(1, 3), 1: range(0, 7)})
    assert pieces(f"x.{EACH}", part) == [(f"x.{one}", Part.cut((F, D), {0: range(0, 7)})) for one in (1, 2)]
