"""A front's list of replicas, over directories that begin anew."""

import asyncio
from pathlib import Path

import pytest

from serving.fleet.directory import Directory, LocalDirectory, ReplicaState
from serving.front.roster import Roster
from tests import networks
from tests.serving.live import running, until

A, B, C = (ReplicaState(name, "127.0.0.1:1", 1) for name in "abc")


def ids(roster: Roster) -> list[str]:
    return [each.id for each in roster.index.replicas]


def test_a_directory_that_begins_anew_is_given_a_lease(monkeypatch: pytest.MonkeyPatch):
    """Who was there is kept, but for who left; who does not come back by then is forgotten."""
    now = 100.0
    monkeypatch.setattr("serving.front.roster.time.monotonic", lambda: now)

    async def body():
        nonlocal now
        client = LocalDirectory(Directory(lease_s=3.0, clock=lambda: now))
        roster = Roster(client)
        for each in (A, B, C):
            await client.beat(each)
        await roster.refresh()
        assert ids(roster) == ["a", "b", "c"]
        client.directory = Directory(lease_s=3.0, clock=lambda: now)
        now += 60  # it was away for long
        await client.leave("c")
        await roster.refresh()
        assert ids(roster) == ["a", "b"]
        assert not roster.silent("a")
        now += 2.9
        await client.beat(B)
        await roster.refresh()
        assert ids(roster) == ["b", "a"]
        assert roster.silent("a")
        now += 0.2
        await client.beat(B)
        await roster.refresh()
        assert ids(roster) == ["b"]

    asyncio.run(body())


def test_a_front_forgets_at_once_who_leaves_or_is_silent(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr("serving.front.roster.time.monotonic", lambda: now)

    async def body():
        nonlocal now
        client = LocalDirectory(Directory(lease_s=3.0, clock=lambda: now))
        roster = Roster(client)
        for each in (A, B):
            await client.beat(each)
        await roster.refresh()
        await client.leave("a")
        await roster.refresh()
        assert ids(roster) == ["b"]
        now += 3.1
        await roster.refresh()
        assert ids(roster) == []

    asyncio.run(body())


def test_no_request_fails_while_a_directory_begins_anew(tmp_path: Path):
    networks.write_rings(tmp_path)
    with running(tmp_path, poll_s=0.02) as live:
        answer, _ = live.infer(seed=1, steps=2)
        local = live.front._directory
        assert isinstance(local, LocalDirectory)
        for _ in range(3):
            before = local.directory
            local.directory = new = Directory()

            def heard(new: Directory = new) -> bool:
                again, _ = live.infer(seed=1, steps=2)
                assert (again["samples"] == answer["samples"]).all()
                return bool(new.listing().replicas)

            until(heard)
            assert local.directory is not before
