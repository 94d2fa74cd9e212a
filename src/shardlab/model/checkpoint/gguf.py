"""A GGUF file of llama.cpp: config in its metadata, weights quantized in blocks along a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from shardlab.layers.rope import DividedBy, LinearScaling, Scaling
from shardlab.layers.sharding import Part
from shardlab.model.checkpoint import names
from shardlab.model.checkpoint.gguf_header import Header, read_header
from shardlab.model.checkpoint.source import WeightsError
from shardlab.model.config import MAX_POSITIONS, ConfigError, Fields, ModelConfig
from shardlab.theory.transformer import Shape
from shardlab_kernels.int4 import Int4Weight, from_q4_1

ARCHITECTURES = ("llama", "qwen3")
ROPE_DIVISORS = "rope_freqs.weight"


class GGUFSource:
    """The checkpoint in one file. `read` touches the rows asked for, or the blocks that hold the columns asked for.

    Raises ConfigError for an architecture that cannot run here, WeightsError for a file that is not sound.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header = read_header(path)
        # GGUF lists a shape the other way round
        self.shapes = {name: tuple(map(int, stored.shape[::-1])) for name, stored in self._header.tensors.items()}
        self.config = _config(path, self._header, self._rope_divisors())
        self._permuted = self._header.metadata["general.architecture"] == "llama"

    def name_of(self, name: str) -> str:
        return names.gguf(name)

    def file_of(self, stored_name: str) -> Path:
        return self.path

    def may_ignore(self, stored_name: str) -> bool:
        return stored_name == ROPE_DIVISORS  # read into the config

    def read(self, stored_name: str, part: Part) -> torch.Tensor:
        return self._in_our_order(stored_name, self._dequantized(stored_name, part))

    def int4(self, stored_name: str, part: Part, device: torch.device) -> Int4Weight | None:
        """This part as it is stored, 4 bits a weight; None where it is not Q4_1, or cuts a block of 32 in two."""
        if self._header.tensors[stored_name].tensor_type != GGMLQuantizationType.Q4_1:
            return None
        rows, before, columns = self._blocks(stored_name, part)
        if before or columns % 32 or not rows.size:
            return None
        return from_q4_1(self._in_our_order(stored_name, torch.from_numpy(rows.copy())).to(device), columns)

    def _in_our_order(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Rows of numbers or of blocks: llama.cpp orders those of q and k in another way."""
        if self._permuted and (".attn_q." in name or ".attn_k." in name):
            return _halves_from_neighbours(rows, self.config.shape.head_dim)
        return rows

    def _blocks(self, name: str, part: Part) -> tuple[np.ndarray, int, int]:
        """(bytes[rows, whole blocks that hold the part], elements of the first block before it, elements of a row)."""
        stored = self._header.tensors[name]
        kind = stored.tensor_type
        elements, size = GGML_QUANT_SIZES[kind]
        rows = stored.data.view(np.uint8).reshape(*self.shapes[name][:-1], -1)  # [..., bytes of a row]
        first, last = part.held[-1].start, part.held[-1].stop
        first_block, last_block = first // elements, -(-last // elements)
        wanted = rows[part.index[:-1]][..., first_block * size : last_block * size]
        wanted = np.ascontiguousarray(wanted).reshape(-1, wanted.shape[-1])
        return wanted, first - first_block * elements, last - first

    def _dequantized(self, name: str, part: Part) -> torch.Tensor:
        """Blocks lie along a row: whole blocks are read, and what sticks out is cut off after dequantizing."""
        wanted, start, columns = self._blocks(name, part)
        if wanted.size == 0:
            return torch.empty(part.local_shape)
        kind = self._header.tensors[name].tensor_type
        try:
            full = dequantize(wanted, kind)
        except NotImplementedError:
            raise WeightsError(self.path, f"quantization {kind.name} is not supported", name) from None
        local = torch.from_numpy(np.require(full[:, start : start + columns], np.float32, ["C", "W"]))
        return local.reshape(part.local_shape)

    def _rope_divisors(self) -> Scaling | None:
        stored = self._header.tensors.get(ROPE_DIVISORS)
        if stored is None:
            return None
        return DividedBy(
            tuple(self._dequantized(ROPE_DIVISORS, Part.whole(self.shapes[ROPE_DIVISORS])).flatten().tolist())
        )


def _halves_from_neighbours(local: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of each head from llama.cpp's order (pairs are neighbours) to Hugging Face's (pairs are halves).

    A part holds whole heads, so a rank can do it alone.
    """
    heads = local.reshape(-1, head_dim // 2, 2, *local.shape[1:])
    return heads.transpose(1, 2).reshape(local.shape)


def _config(path: Path, header: Header, divisors: Scaling | None) -> ModelConfig:
    read = Fields(header.metadata, str(path))
    arch = header.metadata.get("general.architecture")
    if arch not in ARCHITECTURES:
        raise read.error("general.architecture", f"{arch!r}; supported: {', '.join(ARCHITECTURES)}")
    if header.metadata.get(f"{arch}.expert_count"):
        raise read.error(f"{arch}.expert_count", "models with experts are not supported")
    embedding = header.tensors.get("token_embd.weight")
    num_heads, d_model = read.count(f"{arch}.attention.head_count"), read.count(f"{arch}.embedding_length")
    head_dim = read.count(f"{arch}.attention.key_length", d_model // num_heads)
    for key in (f"{arch}.attention.value_length", f"{arch}.rope.dimension_count"):
        if read.count(key, head_dim) != head_dim:
            raise read.error(key, f"only the head's own size, {head_dim}, is supported")
    try:
        shape = Shape(
            num_layers=read.count(f"{arch}.block_count"),
            d_model=d_model,
            d_ff=read.count(f"{arch}.feed_forward_length"),
            num_heads=num_heads,
            num_kv_heads=read.count(f"{arch}.attention.head_count_kv", num_heads),
            head_dim=head_dim,
            vocab_size=int(embedding.shape[-1]) if embedding else read.count(f"{arch}.vocab_size"),
            tied_embeddings="output.weight" not in header.tensors,
            attention_bias="blk.0.attn_q.bias" in header.tensors,
            mlp_bias="blk.0.ffn_up.bias" in header.tensors,
            qk_norm=arch == "qwen3",
            name=str(header.metadata.get("general.name", path.stem)),
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    ends = (header.metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot"))
    return ModelConfig(
        shape=shape,
        norm_eps=read.number(f"{arch}.attention.layer_norm_rms_epsilon", 1e-5),
        rope_theta=read.number(f"{arch}.rope.freq_base", 1e4),
        rope_scaling=divisors or _scaling(read, arch),
        max_positions=read.count(f"{arch}.context_length", MAX_POSITIONS, most=MAX_POSITIONS),
        eos_ids=tuple(end for end in ends if isinstance(end, int)),
    )


def _scaling(read: Fields, arch: str) -> Scaling | None:
    key = f"{arch}.rope.scaling.type"
    kind = read.values.get(key, "none")
    if kind == "none":
        return None
    if kind == "linear":
        return LinearScaling(read.number(f"{arch}.rope.scaling.factor"))
    raise read.error(key, f"{kind!r} is not supported; supported: none, linear, and {ROPE_DIVISORS}")
