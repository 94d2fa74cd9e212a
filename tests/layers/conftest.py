"""One warm pool of four ranks for the folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardlab import Ranks


@pytest.fixture(scope="package")
def ranks() -> Iterator[Ranks]:
    with Ranks(4) as pool:
        yield pool
