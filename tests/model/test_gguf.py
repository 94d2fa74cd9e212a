"""GGUF files: the same logits as the folder they were made from, slices that are slices, broken files named."""

from __future__ import annotations

import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab import Plan, Ranks, Transformer
from shardlab.layers.rope import Llama3Scaling, frequencies
from shardlab.layers.sharding import Part, even_parts, split_heads, widen
from shardlab.model import ConfigError, WeightsError
from shardlab.model.checkpoint.gguf import GGUFSource
from tests.model.gguf_files import convert
from tests.model.programs import outcome
from tests.model.tiny import CASES, LLAMA3_ROPE, Reference, build


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["llama-gqa-bias", "llama-mqa", "qwen3", "qwen3-bias"])
def test_a_gguf_file_says_what_its_folder_says(
    name: str, degree: int, ranks: Ranks, reference: Callable[[str], Reference], tmp_path: Path
) -> None:
    wanted = reference(name)
    path = convert(wanted.folder, tmp_path / "model.gguf")
    for rank in ranks.run(outcome, path, wanted.token_ids, 4, plan=Plan(tp=degree)):
        torch.testing.assert_close(rank.logits, wanted.logits, atol=1e-5, rtol=1e-4)


def test_the_llama3_scaling_is_in_a_tensor(reference: Callable[[str], Reference], tmp_path: Path) -> None:
    wanted = reference("llama-gqa")
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, positions = (LLAMA3_ROPE[name] for name in names)
    assert isinstance(positions, int)
    scaling = Llama3Scaling(float(factor), float(low), float(high), positions)
    divisors = frequencies(8, 5e5) / frequencies(8, 5e5, scaling)
    path = convert(wanted.folder, tmp_path / "model.gguf", rope_divisors=divisors.numpy())
    logits = Transformer.from_pretrained(path)(wanted.token_ids)
    torch.testing.assert_close(logits, wanted.logits, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 96 and 192: three and six blocks of 32."""
    kind, sizes = CASES["llama-mha"]
    folder = tmp_path_factory.mktemp("quantized")
    build((kind, sizes | {"intermediate_size": 192}), folder)
    return folder


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_1, Kind.F16, Kind.BF16], ids=lambda kind: kind.name)
@pytest.mark.parametrize("ranks_", [1, 2, 3, 4, 5])
def test_a_slice_of_blocks_is_the_slice_of_the_whole(kind: Kind, ranks_: int, quantized: Path, tmp_path: Path) -> None:
    """192 columns on 5 ranks begin and end inside blocks."""
    source = GGUFSource(convert(quantized, tmp_path / "model.gguf", kind))
    for name, dim in (("blk.1.ffn_down.weight", 1), ("blk.1.ffn_up.weight", 0), ("token_embd.weight", 0)):
        whole = source.read(name, Part.whole(source.shapes[name]))
        for part in even_parts(source.shapes[name], dim, ranks_):
            assert torch.equal(source.read(name, part), whole[part.index])
    whole = source.read("blk.0.attn_q.weight", Part.whole((96, 96)))
    for heads in split_heads(6, 6, ranks_):
        part = Part.cut((96, 96), {0: widen(heads.query, 16)})
        assert torch.equal(source.read("blk.0.attn_q.weight", part), whole[part.index])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("sound")
    build(CASES["llama-mqa"], folder)
    return convert(folder, folder / "model.gguf").read_bytes()


def patched(sound: bytes, find: bytes, put: bytes) -> bytes:
    assert sound.count(find) >= 1
    return sound.replace(find, put, 1)


BROKEN: dict[str, tuple[Callable[[bytes], bytes], type[Exception], str]] = {
    "empty": (lambda s: b"", WeightsError, "does not begin with GGUF"),
    "another format": (lambda s: b"GGML" + s[4:], WeightsError, "does not begin with GGUF"),
    "version": (lambda s: s[:4] + struct.pack("<I", 99) + s[8:], WeightsError, "version 99 which we cannot handle"),
    "header cut": (lambda s: s[:500], WeightsError, "cut short"),
    "data cut": (lambda s: s[:-1000], WeightsError, "tensor '.*': its bytes lie beyond"),
    "endless metadata": (lambda s: s[:16] + b"\xff" * 8 + s[24:], WeightsError, "cut short|metadata"),
    "endless tensors": (lambda s: s[:8] + b"\xff" * 8 + s[16:], WeightsError, "model.gguf: "),
    "endless string": (lambda s: s[:24] + b"\xff" * 8 + s[32:], WeightsError, "cut short"),
    "unknown architecture": (
        lambda s: patched(s, b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0bloom"),
        ConfigError,
        "general.architecture: 'bloom'; supported: llama, qwen3",
    ),
    "missing tensor": (
        lambda s: patched(s, b"blk.1.ffn_up.weight", b"blk.1.ffn_uq.weight"),
        WeightsError,
        "tensor 'blk.1.ffn_up.weight': missing",
    ),
    "twice the same": (
        lambda s: patched(s, b"blk.1.attn_k.weight", b"blk.1.attn_q.weight"),
        WeightsError,
        "duplicated tensor with name blk.1.attn_q.weight",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named(kind: str, sound: bytes, tmp_path: Path) -> None:
    spoil, error, message = BROKEN[kind]
    (tmp_path / "model.gguf").write_bytes(spoil(sound))
    with pytest.raises(error, match=f"model.gguf: .*{message}|{message}"):
        Transformer.from_pretrained(tmp_path / "model.gguf")


def test_nan_is_found(sound: bytes, tmp_path: Path) -> None:
    spoilt = bytearray(sound)
    spoilt[-4:] = struct.pack("<f", float("nan"))
    (tmp_path / "model.gguf").write_bytes(spoilt)
    with pytest.raises(WeightsError, match=r"tensor '.*': 1 of the \d+ values"):
        Transformer.from_pretrained(tmp_path / "model.gguf")


@settings(max_examples=100, derandomize=True, deadline=None)
@given(data=st.data())
def test_any_damage_to_the_header_gives_a_typed_error(data: st.DataObject, sound: bytes) -> None:
    """Flip bytes of the metadata: it loads as before, or one of our errors comes, soon."""
    spoilt = np.frombuffer(sound, dtype=np.uint8).copy()
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, 1200))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        spoilt.tofile(path)
        started = time.perf_counter()
        try:
            Transformer.from_pretrained(path)
        except (ConfigError, WeightsError):
            pass
        assert time.perf_counter() - started < 3
