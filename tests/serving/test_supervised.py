"""Background tasks come back."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from serving.engine.engine import Engine
from serving.fleet.directory import Directory, LocalDirectory, ReplicaState
from serving.front.server import Front
from serving.replica import Replica
from serving.supervised import Supervised


async def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


class Faulty:
    """Stands in for a method that then raises so often before it works again."""

    def __init__(self, method: Callable[[], Awaitable[None]], times: int = 1) -> None:
        self.method, self.left, self.worked = method, times, 0

    async def __call__(self) -> None:
        if self.left:
            self.left -= 1
            raise ZeroDivisionError("a bug")
        self.worked += 1  # first: it may go on for ever
        await self.method()


def test_a_task_that_raises_is_run_again_and_its_failures_counted(caplog: pytest.LogCaptureFixture):
    async def body() -> None:
        async def nothing() -> None: ...

        faulty, seen = Faulty(nothing, times=3), list[int]()

        async def run() -> None:
            seen.append(task.failures)
            await faulty()
            task.progressed()

        task = Supervised("the loop", run, pause_s=0.01)
        await until(lambda: task.ended)
        assert (seen, task.failures) == ([0, 1, 2, 3], 0)
        await task.stop()

    with caplog.at_level(logging.ERROR):
        asyncio.run(body())
    assert [record.message for record in caplog.records] == [
        f"the loop failed ({i} in a row), again in 0.01 s" for i in (1, 2, 3)
    ]
    assert all(record.exc_info for record in caplog.records)


def test_a_check_tells_of_an_end_and_of_a_standstill():
    async def body() -> None:
        task = Supervised("the loop", lambda: asyncio.sleep(1000))
        task.check(10)
        await asyncio.sleep(0.02)
        with pytest.raises(RuntimeError, match="the loop: expected progress within"):
            task.check(0.01)
        await task.stop()
        with pytest.raises(RuntimeError, match="the loop: expected it to run, it has ended"):
            task.check(10)

    asyncio.run(body())


def test_a_front_whose_loop_raised_follows_the_fleet_again(monkeypatch: pytest.MonkeyPatch):
    async def body() -> None:
        front = Front(LocalDirectory(Directory()), poll_s=0.02, drain_s=0.1)
        with pytest.raises(RuntimeError, match="was not started"):
            await front.check_health(30)
        await front.start()
        assert front._following is not None
        front._following._pause_s = 0.05
        faulty = Faulty(front._follow_once)
        monkeypatch.setattr(front, "_follow_once", faulty)
        await until(lambda: faulty.worked)
        await front.check_health(30)
        with pytest.raises(RuntimeError, match="following the fleet: expected progress"):
            await front.check_health(-1)
        (server,) = front._servers
        await server.stop(None)
        with pytest.raises(RuntimeError, match="gRPC server does not answer: UNAVAILABLE"):
            await front.check_health(30)
        await front.stop()

    asyncio.run(body())


def test_a_replicas_loops_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def body() -> None:
        directory = Directory()
        replica = Replica(tmp_path, LocalDirectory(directory), drain_s=0.1)
        prepare = replica._models.keep_prepared
        making, state, faults = Faulty(lambda: prepare(replica._engine)), replica.state, [ZeroDivisionError("a bug")]

        async def preparing(engine: Engine) -> None:
            await making()

        def faulty() -> ReplicaState:
            if faults:
                raise faults.pop()
            return state()

        monkeypatch.setattr(replica, "state", faulty)
        monkeypatch.setattr(replica._models, "keep_prepared", preparing)
        await replica.start()
        faults.append(ZeroDivisionError("another"))
        await until(lambda: not faults and making.worked)
        await until(lambda: directory.listing().replicas[0].beat > 1)
        assert [each.id for each in directory.listing().replicas] == [replica.id]
        replica.check_health(300, 30)
        with pytest.raises(RuntimeError, match="the heartbeat: expected progress"):
            replica.check_health(300, -1)
        await replica.stop()

    asyncio.run(body())
