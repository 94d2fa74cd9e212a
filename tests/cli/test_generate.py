"""`shardlab generate`: the text as it comes on stdout, the rest on stderr, and T does not change it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shardlab.cli.generate import COLLECTIVES, _echoed
from shardlab.launch import carried


def test_text_appears_while_the_writer_still_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written))
    with _echoed() as pipe:
        with open(pipe, "a", encoding="utf-8") as rank:
            rank.write("Pär")
            rank.flush()
            deadline = time.monotonic() + 250
            while written.getvalue() != "Pär".encode() and time.monotonic() < deadline:
                time.sleep(0.01)
            assert written.getvalue() == "Pär".encode()  # before the pipe is closed
            rank.write("is.")
    assert written.getvalue() == "Päris.".encode()  # nothing is lost at the end
    assert not pipe.parent.exists()


def test_nobody_writes_and_nothing_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(RuntimeError, match="a rank died"):
        with _echoed():
            raise RuntimeError("a rank died")


def test_the_names_here_are_those_that_there_are() -> None:
    assert set(COLLECTIVES) == {"backend", *carried.NAMES}


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with 3 heads, and a tokenizer that knows eight words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    words = ["what", "is", "the", "capital", "of", "France", "Paris", "?"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def shardlab(*args: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    command = [sys.executable, "-m", "shardlab", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=env, check=False)


@pytest.mark.ranks
@pytest.mark.slow
def test_the_answer_is_the_same_under_every_plan(tiny_model: Path) -> None:
    answers = set()
    in_memory = ("--dp", "2", "--tp", "2", "--collectives", "cheapest")
    plans = ((), 1), (("--tp", "3"), 3), (("--pp", "2"), 2), (("--dp", "2", "--tp", "2"), 4), (in_memory, 4)
    for plan, num_ranks in plans:
        given = ("generate", "what is the capital", "--model", str(tiny_model), "--max-tokens", "9")
        done = shardlab(*given, *plan)
        assert done.returncode == 0, done.stderr
        assert re.search(rf"9 tokens on {num_ranks} ranks?: [\d.]+ tokens/s", done.stderr)
        answers.add(done.stdout)
    assert len(answers) == 1
    assert len(answers.pop().split()) == 9


@pytest.mark.slow
def test_what_the_model_cannot_do_is_said_before_ranks_start(tiny_model: Path) -> None:
    refused = shardlab("generate", "what", "--tp", "4", "--model", str(tiny_model))
    assert refused.returncode == 2
    assert "--tp 4: the model has num_heads=3" in refused.stderr
    refused = shardlab("generate", "what", "--pp", "3", "--model", str(tiny_model))
    assert refused.returncode == 2
    assert "pp=3 cannot split num_layers=2: a stage needs at least one; degrees that work: 1..2" in refused.stderr
    for plan, said in ((("--cp", "2"), "--cp 2: sequences are not split yet"), (("--tp", "2", "--ep", "2"), "ep=2")):
        refused = shardlab("generate", "what", *plan, "--model", str(tiny_model))
        assert refused.returncode == 2 and said in refused.stderr
    refused = shardlab("generate", "what", "--model", str(tiny_model), "--max-tokens", "64")
    assert refused.returncode == 2
    assert "--max-tokens 64: the model has 64 positions" in refused.stderr
    assert "Traceback" not in refused.stderr
