"""Every kernel test runs with poisoned memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernels.support import poison


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poison():
        yield
