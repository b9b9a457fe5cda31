"""A client of the server that several tests share."""

from collections.abc import Iterator

import pytest

from tests.serving.live import Live
from tiltserve import Client


@pytest.fixture
def client(served: Live) -> Iterator[Client]:
    with Client(served.address, timeout=60) as client:
        yield client
