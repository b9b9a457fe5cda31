"""Streams on which a client may say nothing for ever: they wait no longer than they need, and not for a server that
stops."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TypeVar

from grpc.aio import ServicerContext

from serving.wire import errors

Message = TypeVar("Message")

MESSAGE_S = 30.0
"""Seconds in which the next message of a stream must come where nothing waits for its answer."""
LAST_S = 5.0
"""Seconds in which a client must answer once the server stops."""
CLOSE_S = 0.5
"""Seconds for the last bytes of calls that have ended, when a server closes."""


class Streams:
    """Waits for messages of streams, until the server stops. Make it on the server's event loop."""

    def __init__(self, message_s: float = MESSAGE_S, last_s: float = LAST_S) -> None:
        self._message_s, self._last_s = message_s, last_s
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End every wait of a stream that holds no work now, and the others in `last_s` seconds."""
        self._stopping.set()

    async def first(self, messages: AsyncIterator[bytes]) -> bytes:
        """The first message of a stream for samples, as `begun`; no bytes where there is none."""
        try:
            return await self.begun(messages, "sample as the first message")
        except StopAsyncIteration:
            return b""

    async def begun(self, messages: AsyncIterator[Message], expected: str) -> Message:
        """The next message of a stream that holds no work.

        Raises:
            StopAsyncIteration: there is none.
            RequestError: DEADLINE_EXCEEDED where none comes in time, UNAVAILABLE once the server stops.
        """
        return await self._next(messages, expected, self._message_s, 0.0)

    async def answered(self, messages: AsyncIterator[Message], expected: str) -> Message:
        """The next message of a stream on which work waits for it, as `begun`; only a stopping server hurries it."""
        return await self._next(messages, expected, None, self._last_s)

    async def request(self, messages: AsyncIterator[Message]) -> Message:
        """The next of many requests of a stream, as `begun`; a client may be silent between two for as long as it
        likes."""
        return await self._next(messages, "another request", None, 0.0)

    async def _next(
        self, messages: AsyncIterator[Message], expected: str, within_s: float | None, grace_s: float
    ) -> Message:
        reading = asyncio.ensure_future(_read(messages))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({reading, stopping}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            stops = stopping.done()
            if stops and not reading.done():
                await asyncio.wait({reading}, timeout=grace_s)
            if reading.done():
                return reading.result()
            if stops:
                raise errors.unavailable(f"the server is stopping and waits no longer for {expected}")
            raise errors.deadline(f"expected {expected} within {within_s:g} s, got none")
        finally:
            for each in (reading, stopping):
                each.cancel()


async def _read(messages: AsyncIterator[Message]) -> Message:
    return await anext(messages)


class UnderWay:
    """Calls that a stopping server finishes. Make it on the server's event loop.

    Attributes:
        came: how many there have been.
    """

    def __init__(self) -> None:
        self.came = 0
        self._calls: set[object] = set()
        self._ended = asyncio.Event()

    def add(self, context: ServicerContext) -> None:
        """Count a call until its status is sent."""
        call = object()
        self.came += 1
        self._calls.add(call)
        context.add_done_callback(lambda _: self._done(call))

    def _done(self, call: object) -> None:
        self._calls.discard(call)
        self._ended.set()

    async def over(self, seconds: float) -> None:
        """Wait until those that are counted now have ended, no longer than so many seconds."""
        waited_for = self._calls.copy()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while waited_for & self._calls:
                    self._ended.clear()
                    await self._ended.wait()
