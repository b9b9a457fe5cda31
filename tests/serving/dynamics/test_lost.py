"""Trajectories whose replica is lost: another one goes on, and the bytes are the same."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.serving.live import Live, running
from tiltserve import Chunk, Client

STARTS = np.random.default_rng(0).normal(size=(8, 2))
TIMES = np.linspace(0.0, 8.0, 150_001)
"""States of more bytes than wait on the way, so that the request waits for its reader."""


@pytest.fixture(scope="module")
def live(decays: Path) -> Iterator[Live]:
    with running(decays, count=2) as live:
        yield live


def test_a_stream_goes_on_where_its_replica_was_lost(live: Live) -> None:
    with Client(live.address) as client:
        whole = client.solve_stream("decay", STARTS, TIMES, seed=1).result()
        replays = live.metric("tiltserve_replays_total")
        with client.solve_stream("decay", STARTS, TIMES, seed=1) as stream:
            first = next(stream)
            assert isinstance(first, Chunk)
            busy = [each for each in live.replicas if each._engine._tasks]
            assert len(busy) == 1
            server = busy[0]._server
            assert server is not None
            live.on_loop(server.stop(None))
            found = stream.result()
    assert live.metric("tiltserve_replays_total") == replays + 1
    assert np.asarray(found).tobytes() == np.asarray(whole).tobytes()
    assert found.fingerprint == whole.fingerprint


def test_a_model_that_left_the_memory_comes_back_as_it_was(decays: Path) -> None:
    largest = sum(file.stat().st_size for file in (decays / "coded" / "1").iterdir())
    with running(decays, model_memory=largest + 1) as live, Client(live.address) as client:
        answers = [np.asarray(client.solve(model, STARTS, TIMES[::1000])).tobytes() for model in ("decay", "coded") * 2]
        assert answers[:2] == answers[2:]
        assert live.metric("tiltserve_model_unloads_total") > 0
        assert {each.name for each in client.metadata("decay").inputs} >= {"y0", "t_eval", "rate"}
