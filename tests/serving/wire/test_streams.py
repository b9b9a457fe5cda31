"""Waiting for messages of clients that may send none."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from serving.wire.errors import RequestError
from serving.wire.streams import Streams, UnderWay


async def messages(*given: str, then_s: float = 60.0) -> AsyncIterator[str]:
    for each in given:
        yield each
    await asyncio.sleep(then_s)


def test_messages_come_as_they_are():
    async def body() -> None:
        streams, stream = Streams(), messages("a", "b", then_s=0)
        assert await streams.begun(stream, "a message") == "a"
        assert await streams.answered(stream, "a message") == "b"
        with pytest.raises(StopAsyncIteration):
            await streams.answered(stream, "a message")

    asyncio.run(body())


def test_a_first_message_has_its_time():
    async def body() -> None:
        with pytest.raises(RequestError, match=r"expected a first message within 0.05 s, got none") as caught:
            await Streams(message_s=0.05).begun(messages(), "a first message")
        assert caught.value.code.name == "DEADLINE_EXCEEDED"

    asyncio.run(body())


@pytest.mark.parametrize(("work", "seconds"), [(False, 0.0), (True, 0.3)])
def test_a_server_that_stops_waits_for_work_a_little(work: bool, seconds: float):
    async def body() -> None:
        streams = Streams(last_s=0.3)
        wait = streams.answered if work else streams.begun
        waiting = asyncio.create_task(wait(messages(), "an answer"))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        streams.stop()
        with pytest.raises(RequestError, match="the server is stopping and waits no longer for an answer") as caught:
            await waiting
        assert caught.value.code.name == "UNAVAILABLE"
        assert seconds <= time.monotonic() - began < seconds + 1
        if work:
            assert await wait(messages("in time"), "an answer") == "in time"

    asyncio.run(body())


class Call:
    def __init__(self) -> None:
        self.callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    def end(self) -> None:
        for each in self.callbacks:
            each(self)


def test_only_calls_from_before_are_waited_for():
    async def body() -> None:
        under_way, calls = UnderWay(), [Call(), Call(), Call()]
        for call in calls[:2]:
            under_way.add(cast(Any, call))
        over = asyncio.create_task(under_way.over(10))
        await asyncio.sleep(0)
        under_way.add(cast(Any, calls[2]))
        calls[0].end()
        await asyncio.sleep(0.05)
        assert not over.done()
        calls[1].end()
        await asyncio.wait_for(over, 1)
        began = time.monotonic()
        await under_way.over(0.1)
        assert 0.1 <= time.monotonic() - began < 1

    asyncio.run(body())
