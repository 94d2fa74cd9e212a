"""Checkpoints that are not what they say: each gives a typed error that names the file and the tensor, at once.

FAULTS.md F27, F28 and section 7: nine kinds of broken safetensors, pickles under any name, an index that
lies.
"""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from shardlab import Transformer
from shardlab.comm.mesh import Axis, Mesh
from shardlab.comm.recorder import Recorder
from shardlab.model import ModelConfig, WeightsError
from shardlab.model.checkpoint import safetensors as safetensors_source
from shardlab.model.checkpoint.safetensors import INDEX, SINGLE
from shardlab.theory.degrees import Plan
from shardlab.theory.transformer import Shape
from tests.model.tiny import CASES, Reference, build

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def folder(reference: Callable[[str], Reference], tmp_path: Path) -> Path:
    """A copy of a sound model, to break."""
    return Path(shutil.copytree(reference("llama-gqa").folder, tmp_path / "model"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The same model in several files with an index."""
    return build(CASES["llama-gqa"], tmp_path_factory.mktemp("sharded"), max_shard_size="100KB")


def header(path: Path) -> tuple[dict[str, Any], bytes]:
    """-> the JSON header, and the data after it."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def write(path: Path, head: dict[str, Any] | bytes, data: bytes, size: int | None = None) -> None:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)


def lie(path: Path, **changes: Any) -> None:
    """Change what the header says of one tensor."""
    head, data = header(path)
    head[DOWN] |= changes
    write(path, head, data)


BROKEN: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "header of 2^63 bytes": lambda path: write(path, *header(path), size=1 << 63),
    "header of 200 MB": lambda path: write(path, *header(path), size=200_000_000),
    "bad JSON": lambda path: write(path, b"{" + b"x" * 100, b""),
    "lying shape": lambda path: lie(path, shape=[72, 204]),
    "overlapping tensors": lambda path: lie(path, data_offsets=[0, 72 * 203 * 4]),
    "unknown dtype": lambda path: lie(path, dtype="F99"),
    "trailing bytes": lambda path: path.write_bytes(path.read_bytes() + b"\0" * 64),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named(kind: str, folder: Path) -> None:
    BROKEN[kind](folder / SINGLE)
    started = time.perf_counter()
    with pytest.raises(WeightsError, match=SINGLE):
        Transformer.from_pretrained(folder)
    assert time.perf_counter() - started < 0.5  # 0.1 s by itself


class Bomb:
    """Unpickling it would leave a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_a_pickle_is_refused_by_name(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
    for source in (folder, folder / name):
        with pytest.raises(WeightsError, match=f"{name}: pickled"):
            Transformer.from_pretrained(source)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_is_refused_by_its_bytes(protocol: int, folder: Path, tmp_path: Path) -> None:
    (folder / SINGLE).write_bytes(pickle.dumps(Bomb(tmp_path / "trace"), protocol=protocol))
    with pytest.raises(WeightsError, match=f"{SINGLE}: its first bytes are a pickle's"):
        Transformer.from_pretrained(folder)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", [SINGLE, "model.gguf"])
def test_a_zip_archive_is_refused_by_its_bytes(name: str, folder: Path) -> None:
    with zipfile.ZipFile(folder / name, "w") as archive:  # what torch.save writes
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(WeightsError, match=f"{name}: its first bytes are a pickle's or a zip"):
        Transformer.from_pretrained(folder if name == SINGLE else folder / name)


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / SINGLE)
    edit(tensors)
    save_file(tensors, folder / SINGLE)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(DOWN), rf"model: tensor '{DOWN}': missing; shape \(72, 203\)"),
        (lambda t: t.update(extra=torch.zeros(2)), rf"{SINGLE}: tensor 'extra': the model has no such"),
        (
            lambda t: t.update({DOWN: torch.zeros(203, 72)}),
            rf"{SINGLE}: tensor '{DOWN}': its shape is \(203, 72\); the config expects \(72, 203\)",
        ),
        (lambda t: t.update({DOWN: torch.zeros(72, 203, dtype=torch.int8)}), rf"{DOWN}': dtype I8"),
        (lambda t: t[DOWN].view(-1)[5:7].fill_(float("nan")), rf"{DOWN}': 2 of the 14616 values"),
        (lambda t: t[DOWN].view(-1)[5].fill_(float("-inf")), rf"{DOWN}': 1 of the 14616 values"),
    ],
    ids=["missing", "extra", "wrong shape", "integers", "nan", "infinity"],
)
def test_a_wrong_tensor_is_named(edit: Callable[[Any], object], message: str, folder: Path) -> None:
    change(folder, edit)
    with pytest.raises(WeightsError, match=message) as caught:
        Transformer.from_pretrained(folder)
    assert isinstance(caught.value, ValueError)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), WeightsError)  # it comes home from a rank


def test_wrong_shapes_are_found_before_anything_is_read(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({DOWN: torch.zeros(203, 72)}))
    with mock.patch.object(safetensors_source.SafetensorsSource, "read", side_effect=AssertionError):
        with pytest.raises(WeightsError):
            Transformer.from_pretrained(folder)


def test_what_may_be_ignored_is(folder: Path) -> None:
    """Llama 2 folders carry inv_freq; a tied output matrix may be stored a second time."""
    more = {
        "lm_head.weight": torch.zeros(1003, 72),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
    }
    change(folder, lambda tensors: tensors.update(more))
    Transformer.from_pretrained(folder)


def test_several_files_and_an_index(sharded: Reference) -> None:
    assert len(list(sharded.folder.glob("*.safetensors"))) > 3
    logits = Transformer.from_pretrained(sharded.folder)(sharded.token_ids)
    torch.testing.assert_close(logits, sharded.logits, atol=1e-5, rtol=1e-4)


def edited_index(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    edit(index)
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda i: i["weight_map"].update({DOWN: "nowhere.safetensors"}), "nowhere.safetensors: not found"),
        (lambda i: i["weight_map"].update({DOWN: "../x.safetensors"}), f"{INDEX}: tensor '{DOWN}': its file"),
        (lambda i: i["weight_map"].update({DOWN: "/etc/passwd"}), f"{INDEX}: tensor '{DOWN}': its file"),
        (lambda i: i["weight_map"].pop(DOWN), f"{DOWN}': here, but not in {INDEX}"),
        (lambda i: i["weight_map"].update(ghost=next(iter(i["weight_map"].values()))), "'ghost'.*it is not"),
        (lambda i: i.pop("weight_map"), f"{INDEX}: not a valid index"),
        (lambda i: i.update(weight_map=[1, 2]), f"{INDEX}: not a valid index"),
    ],
    ids=["no such file", "outside", "absolute", "unlisted", "ghost", "no map", "not a map"],
)
def test_an_index_that_lies(edit: Callable[[Any], object], message: str, sharded: Reference, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded.folder, tmp_path / "model"))
    edited_index(folder, edit)
    with pytest.raises(WeightsError, match=message):
        Transformer.from_pretrained(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": 1}', "\x00"])
def test_an_index_that_is_none(text: str, sharded: Reference, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded.folder, tmp_path / "model"))
    (folder / INDEX).write_text(text)
    with pytest.raises(WeightsError, match=INDEX):
        Transformer.from_pretrained(folder)


def test_no_weights_at_all(folder: Path) -> None:
    (folder / SINGLE).unlink()
    with pytest.raises(WeightsError, match=f"neither {SINGLE} nor {INDEX}"):
        Transformer.from_pretrained(folder)
    with pytest.raises(WeightsError, match="not found"):
        Transformer.from_pretrained(folder / "nothing")


class Spy:
    """A safetensors handle that notes what is read through it."""

    def __init__(self, handle: Any, read: dict[str, int]) -> None:
        self.handle, self.read = handle, read

    def keys(self) -> list[str]:
        return self.handle.keys()

    def get_slice(self, name: str) -> Any:
        spy, stored = self, self.handle.get_slice(name)

        class Slice:
            get_shape, get_dtype = stored.get_shape, stored.get_dtype

            def __getitem__(self, index: Any) -> torch.Tensor:
                local = stored[index]
                spy.read[name] = spy.read.get(name, 0) + local.nbytes
                return local

        return Slice()

    def get_tensor(self, name: str) -> torch.Tensor:
        raise AssertionError(f"the whole of {name} was read")


@pytest.mark.parametrize("name", ["llama-gqa", "llama-mqa", "qwen3-bias"])
@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_a_rank_reads_only_its_own_slices(name: str, degree: int, reference: Callable[[str], Reference]) -> None:
    folder, honest = reference(name).folder, safetensors_source._open
    totals = []
    for rank in range(degree):
        read: dict[str, int] = {}
        axis = Axis("tp", rank, degree, tuple(range(degree)), None, Recorder())
        mesh = Mesh.single()
        mesh._axes["tp"] = axis
        with mock.patch.object(safetensors_source, "_open", lambda path, read=read: Spy(honest(path), read)):
            model = Transformer.from_pretrained(folder, mesh)
        assert sum(read.values()) == sum(parameter.nbytes for parameter in model.parameters())
        totals.append(sum(read.values()))
    whole = sum(tensor.nbytes for tensor in load_file(folder / SINGLE).values())
    copied = sum(totals) / whole
    assert copied == 1 if degree == 1 else 1 <= copied < 1.35  # norms and shared KV heads are on several ranks
    assert max(totals) < 1.35 * whole / degree


def test_axes_that_the_model_does_not_know() -> None:
    axis = Axis("cp", 0, 2, (0, 1), None, Recorder())
    mesh = Mesh(Plan(cp=2), 0, Mesh.single()._axes | {"cp": axis}, torch.device("cpu"), Recorder())
    with pytest.raises(ValueError, match="cp=2"):
        Transformer(ModelConfig(Shape(2, 8, 8, 2, 2, 4, 16)), mesh)
