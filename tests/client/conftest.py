"""One real server for the client's tests, and a client of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.live import Live, running
from tiltserve import Client


@pytest.fixture(scope="session")
def served(small_models: Path) -> Iterator[Live]:
    """The samplers `rings` and `stripes` (with a label), the rewards `nearness` (with a mode) and `nan`."""
    with running(small_models, answer_s=2.0, max_queue_rows=200_000) as live:
        yield live


@pytest.fixture
def client(served: Live) -> Iterator[Client]:
    with Client(served.address, timeout=60) as client:
        yield client
