"""plain_torch and interpreted: for whom they hold, and that nothing is left of them, in whatever order they close."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import AbstractContextManager

import pytest
import torch

from shardlab import ops
from shardlab.ops.dispatch import on_kernels

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the kernels were defined for the GPU: nothing is interpreted"
)


def on() -> bool:
    return on_kernels(torch.zeros(1))


def within(context: AbstractContextManager[None]) -> Generator[bool, None, None]:
    with context:
        yield on()
        yield on()


def test_the_innermost_says_it() -> None:
    assert not on()
    with ops.interpreted():
        assert on()
        with ops.plain_torch():
            assert not on()
        assert on()
    assert not on()


def test_an_exception_leaves_nothing() -> None:
    with pytest.raises(KeyError), ops.interpreted():
        raise KeyError
    assert not on()


def test_a_generator_that_ends_late_takes_only_its_own_word_away() -> None:
    generator = within(ops.interpreted())
    assert next(generator)
    with ops.plain_torch():
        assert not on()
        generator.close()  # in between: it was opened first
        assert not on()
    assert not on()
    generator = within(ops.plain_torch())
    with ops.interpreted():
        assert not next(generator)
    assert not on()  # still what the generator said
    with ops.interpreted():
        assert on()
        generator.close()
        assert on()
    assert not on()


def test_other_threads_do_not_hear_it() -> None:
    heard: list[bool] = []
    with ops.interpreted():
        thread = threading.Thread(target=lambda: heard.append(on()))
        thread.start()
        thread.join()
    assert heard == [False]
