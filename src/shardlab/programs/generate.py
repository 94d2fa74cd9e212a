"""Answer a prompt with a real model split over the tp ranks, piece by piece."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from shardlab import comm
from shardlab.comm.mesh import Axis, Mesh
from shardlab.model import Sampling, Transformer
from shardlab.model.tokenizer import encode, load_tokenizer
from shardlab.theory.degrees import AXES


@dataclass(frozen=True)
class Generated:
    """One rank's report. Every rank of a replica has the same token_ids; the text is rank 0's."""

    text: str
    token_ids: list[int]
    prompt_ids: list[int]
    load_s: float
    prefill_s: float
    decode_s: float

    @property
    def tokens_per_s(self) -> float:
        """Decode: tokens after the first, by the time they took. 0 where there is just one."""
        return (len(self.token_ids) - 1) / self.decode_s if self.decode_s else 0.0


def generate(
    mesh: Mesh,
    source: str | Path,
    prompt: str,
    max_new_tokens: int = 128,
    *,
    chat: bool = True,
    int4: bool = False,
    sampling: Sampling | None = None,
    stream_to: str | Path | None = None,
) -> Generated:
    """Run on every rank. Greedy unless `sampling` is given; with `chat`, the tokenizer's chat template is applied.

    Rank 0 tokenizes and sends the ids to the others, so only one rank reads the vocabulary. It appends
    text as it comes to the file or pipe `stream_to`, which the caller may read meanwhile. Raises ConfigError,
    WeightsError, ValueError.
    """
    started = time.perf_counter()
    tokenizer = load_tokenizer(Path(source)) if mesh.rank == 0 else None
    model = Transformer.from_pretrained(source, mesh, int4=int4)
    token_ids = encode(tokenizer, prompt, chat) if tokenizer else None
    for axis in AXES:  # along one line of the grid, then from all ranks of that along the next
        token_ids = share(token_ids, mesh[axis], mesh.device)
    assert token_ids is not None
    load_s = time.perf_counter() - started
    shown = Shown(tokenizer, stream_to if mesh.rank == 0 else None)
    new, seconds = [], []
    started = time.perf_counter()
    for tokens in model.stream(token_ids, max_new_tokens, sampling=sampling):
        seconds.append(time.perf_counter() - started)
        new.append(int(tokens[0]))
        if new[-1] not in model.config.eos_ids:
            shown.add(new[-1])
    first_s, last_s = (seconds[0], seconds[-1]) if seconds else (0.0, 0.0)  # a replica without the prompt has none
    return Generated(shown.close(), new, token_ids[0].tolist(), load_s, first_s, last_s - first_s)


def share(token_ids: torch.Tensor | None, axis: Axis, device: torch.device) -> torch.Tensor | None:
    """token_ids[1,S] of the axis's rank 0 -> every rank of it. The others pass None; None where all do."""
    if axis.size == 1:
        return token_ids
    size = torch.tensor([0 if token_ids is None else token_ids.shape[1]], device=device)
    size = comm.broadcast(size, axis)
    if not int(size):
        return None
    if token_ids is None:
        token_ids = torch.zeros(1, int(size), dtype=torch.int64)
    return comm.broadcast(token_ids.to(device), axis).cpu()


class Shown:
    """Text as it grows. A character of several tokens is held back until it is whole."""

    def __init__(self, tokenizer: Any, stream_to: str | Path | None) -> None:
        self.tokenizer = tokenizer
        self.token_ids: list[int] = []
        self.text = ""
        self._out: TextIO | None = None if stream_to is None else open(stream_to, "a", encoding="utf-8")

    def add(self, token_id: int) -> None:
        """One more token."""
        self.token_ids.append(token_id)
        if self.tokenizer is not None:
            self._show(self.tokenizer.decode(self.token_ids), whole=False)

    def close(self) -> str:
        """The whole text."""
        if self.tokenizer is not None:
            self._show(self.tokenizer.decode(self.token_ids), whole=True)
        if self._out is not None:
            self._out.close()
        return self.text

    def _show(self, text: str, whole: bool) -> None:
        if text.endswith("\ufffd") and not whole:
            return
        piece, self.text = text[len(self.text) :], text
        if self._out is not None and piece:
            self._out.write(piece)
            self._out.flush()
