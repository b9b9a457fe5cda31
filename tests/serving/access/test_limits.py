"""Buckets for any takers, and what identities have under way."""

import contextlib
import math

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.access import limits
from serving.access.bucket import Bucket
from serving.access.caller import Caller, Limits
from serving.access.limits import Usage
from serving.wire.errors import RequestError

takes = st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1000)), max_size=50)
"""Seconds since the last one, and units."""


@given(takes, st.floats(0.1, 1000), st.floats(1, 1000))
def test_no_more_is_taken_than_was_filled_in(wanted: list[tuple[float, int]], rate: float, most: float) -> None:
    """In any span of time: at most what a full bucket holds, and what came since."""
    bucket, now, taken = Bucket(rate, most, 0.0), 0.0, list[tuple[float, int]]()
    for wait, units in wanted:
        now += wait
        there = bucket.level(now)
        assert 0 <= there <= most
        if bucket.take(units, now):
            assert units <= there
            taken.append((now, units))
        else:
            assert units > there
    for start in range(len(taken)):
        for end in range(start, len(taken)):
            units = sum(each for _, each in taken[start : end + 1])
            assert units <= (most + rate * (taken[end][0] - taken[start][0])) * (1 + 1e-9) + 1e-6


@given(st.floats(0.1, 1000), st.floats(1, 1000), st.integers(0, 2000), st.integers(0, 1000))
def test_there_is_enough_after_the_wait(rate: float, most: float, units: int, before: int) -> None:
    bucket = Bucket(rate, most, 0.0)
    bucket.take(min(before, math.floor(most)), 0.0)
    wait = bucket.wait(units, 0.0)
    assert (wait == math.inf) == (units > most)
    if wait < math.inf:
        assert bucket.take(units, wait + 1e-6 * (1 + wait))


def limited(**bounds: float) -> Caller:
    return Caller("alice", limits=Limits.model_validate(bounds))


def refused(usage: Usage, who: Caller, rows: int = 1, **asked: int) -> str:
    with pytest.raises(RequestError) as caught, usage.of(who, asked, rows):
        pass
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    return caught.value.detail


def test_requests_under_way_are_counted_until_they_end_however_they_end() -> None:
    usage, alice, bob = Usage(), limited(concurrent=2), Caller("bob", limits=Limits(concurrent=1))
    with contextlib.ExitStack() as held:
        for _ in range(2):
            held.enter_context(usage.of(alice, {}, 1))
        assert "limit concurrent of 'alice': expected at most 2 requests under way" in refused(usage, alice)
        with usage.of(bob, {}, 1):
            pass
    with contextlib.suppress(ValueError), usage.of(alice, {}, 1):
        raise ValueError
    assert not usage._under_way


def test_a_refused_request_takes_no_rows() -> None:
    now = [0.0]
    usage, alice = Usage(lambda: now[0]), limited(rows_per_second=10, samples=4)
    refused(usage, alice, rows=90, samples=5)
    with usage.of(alice, {"samples": 4}, 100):  # ten seconds' worth are saved up
        pass
    assert "with 0 left; there are enough in 0.1 s" in refused(usage, alice)
    now[0] = 5.0
    with usage.of(alice, {}, 50):
        pass
    with usage.of(limited(rows_per_second=1000), {}, 9000):  # new limits count from when they are read
        pass


def test_identities_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MOST", 10)
    usage, bound = Usage(), Limits(rows_per_second=1)
    for number in range(100):
        with usage.of(Caller(f"jwt:{number}", limits=bound), {}, 1):
            pass
    assert len(usage._buckets) == 10
