"""One warm pool for the whole session, and a check after every test that nothing else is left."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardlab import Ranks
from shardlab.launch import client
from tests.launch import leftovers

SESSION = leftovers.new_run()
LONG_S = 100.0  # a busy machine may take long over anything: what is waited for is the event
TIMEOUT_S = 4.0  # "T" of the fault matrix: for runs that end in the time-out, on ranks that are warm


@pytest.fixture(scope="session", autouse=True)
def own_temp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temp folder of our own, so that every folder in it is ours; and the mark of this session."""
    client.close_server()  # another folder's tests may have started one
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("temp"))
    os.environ[leftovers.RUN] = SESSION
    yield Path(tempfile.tempdir)
    client.close_server()
    del os.environ[leftovers.RUN]
    assert leftovers.left(SESSION, [os.getpid()]) == {}
    assert leftovers.folders(tempfile.tempdir) == []
    tempfile.tempdir = before


@pytest.fixture(scope="session")
def ranks(own_temp: Path) -> Iterator[Ranks]:
    """Four ranks, shared by all tests: every fault must leave them usable."""
    with Ranks(4, timeout_s=LONG_S) as pool:
        yield pool


@pytest.fixture(autouse=True)
def nothing_left(own_temp: Path, ranks: Ranks) -> Iterator[None]:
    """After each test there are this process, its launch server, the ranks of the shared pool: no more."""
    yield
    server = client._server
    allowed = [os.getpid(), *([server.process.pid] if server else []), *ranks.pids]
    assert leftovers.left(SESSION, allowed) == {}
    roots = [server.root] if server else []
    assert leftovers.folders(own_temp, wanted=roots) == roots
    if server:
        live = [ranks._live.folder] if ranks._live and ranks._live.server is server else []
        assert sorted(str(p) for p in Path(server.root).glob("pool*")) == live
