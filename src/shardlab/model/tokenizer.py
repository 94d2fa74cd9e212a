"""The tokenizer of a model folder or a GGUF file, by transformers. Reads local files only.

Making one from a GGUF file takes seconds, so the result is kept in the user's cache: next time takes a tenth
of one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from shardlab.model.checkpoint.fetch import cache_folder


def load_tokenizer(source: Path) -> Any:
    """A model folder or a GGUF file -> a transformers tokenizer."""
    from transformers import AutoTokenizer  # slow to import: only the rank that needs it does

    if source.is_dir():
        return AutoTokenizer.from_pretrained(source, local_files_only=True)
    kept = _kept_folder(source)
    if (kept / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(kept, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
    _keep(tokenizer, kept)
    return tokenizer


def encode(tokenizer: Any, prompt: str, chat: bool = True) -> torch.Tensor:
    """prompt -> token_ids[1,S], in the chat template if there is one. Raises ValueError for a prompt without tokens."""
    if chat and tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = tokenizer.encode(text, add_special_tokens=False)
    else:
        ids = tokenizer.encode(prompt)
    if not ids:
        raise ValueError("the prompt is empty: it has no tokens")
    return torch.tensor([ids])


def _kept_folder(source: Path) -> Path:
    """One folder for each file as it is now: another size or date is another file."""
    import transformers

    source = source.resolve()
    stat = source.stat()
    key = f"{source}:{stat.st_size}:{stat.st_mtime_ns}:{transformers.__version__}"
    return cache_folder() / "tokenizers" / hashlib.sha256(key.encode()).hexdigest()[:24]


def _keep(tokenizer: Any, kept: Path) -> None:
    """Save it whole or not at all. A cache that cannot be written costs time, not the answer."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = tempfile.mkdtemp(dir=kept.parent, prefix=".saving-")
    except OSError:
        return
    try:
        tokenizer.save_pretrained(partial)
        os.rename(partial, kept)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
