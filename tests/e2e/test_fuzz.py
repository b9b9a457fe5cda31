"""Malformed, truncated and absurd requests on every method of the real server: the short form of `bench fuzz`."""

import pytest

from benchmarks import fuzz
from deploy.process import Running
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]


def test_absurd_requests_do_no_harm(server: Server):
    running = Running(server.grpc, server.metrics, tuple(server.models), server.process.pid)
    verdicts, judge = fuzz.fuzz(running, requests=3000, seconds=60, seed=20)
    assert not verdicts.failed, fuzz.short(judge.faults)
    assert {each.name for each in judge.methods.values()} <= {method for method, _ in judge.counts}
