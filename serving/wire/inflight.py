"""Many requests at a time on one stream, within bounds."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from grpc.aio import ServicerContext

from serving.wire.errors import RequestError, abort
from serving.wire.streams import Streams

MOST_REQUESTS = 256
"""Most requests under way on one stream: as many as a full network call has rows."""
MOST_BYTES = 64 * 2**20
"""Bytes of requests and answers that a stream holds beyond which no further request of it is read."""
SLOW_S = 0.2
"""Seconds of one write after which its reader counts as slow."""


class InFlight:
    """The requests of one stream. Beyond the bounds further ones are not read until some have ended: the client's
    writes wait, and nothing is refused. Make it on the server's event loop.
    """

    def __init__(self, most_requests: int = MOST_REQUESTS, most_bytes: int = MOST_BYTES) -> None:
        self._most_requests, self._most_bytes = most_requests, most_bytes
        self._requests = self._bytes = 0
        self._less = asyncio.Event()

    def hold(self, size: int) -> Callable[[], None]:
        """Counts so many bytes until what it returns is called."""
        self._bytes += size

        def let_go() -> None:
            self._bytes -= size
            self._less.set()

        return let_go

    async def write(self, sender: "Sender", last: bytes) -> None:
        """Writes a request's last response, which counts until it is written."""
        let_go = self.hold(len(last))
        try:
            await sender.write(last)
        finally:
            let_go()

    async def serve(
        self,
        messages: AsyncIterator[bytes],
        streams: Streams,
        answer: Callable[[bytes], Awaitable[None]],
        context: ServicerContext,
    ) -> None:
        """As `run`; an error ends the call with its status."""
        try:
            await self.run(messages, streams, answer)
        except RequestError as error:
            await abort(context, error)

    async def run(
        self, messages: AsyncIterator[bytes], streams: Streams, answer: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Calls `answer` on each message, all at a time, until the client has no more and all have ended.

        Raises:
            RequestError: the first that `answer` raises, which ends the others; UNAVAILABLE once the server stops and
                those that were begun have ended.
        """
        stopped: RequestError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._room()
                    try:
                        data = await streams.request(messages)
                    except StopAsyncIteration:
                        break
                    except RequestError as error:
                        stopped = error
                        break
                    self._begin(group.create_task(_awaited(answer, data)), len(data))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        if stopped is not None:
            raise stopped

    def _begin(self, task: asyncio.Task[None], size: int) -> None:
        self._requests += 1
        let_go = self.hold(size)

        def end(_: object) -> None:
            self._requests -= 1
            let_go()

        task.add_done_callback(end)

    async def _room(self) -> None:
        while self._requests >= self._most_requests or self._bytes >= self._most_bytes:
            self._less.clear()
            await self._less.wait()


async def _awaited(answer: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
    await answer(data)


class Sender:
    """Writes the responses of many requests to one stream, one at a time, first come first served."""

    def __init__(self, context: ServicerContext) -> None:
        self._context = context
        self._turn = asyncio.Lock()
        self._since: float | None = None

    async def send(self, response: Callable[[], Awaitable[bytes | None]]) -> None:
        """Writes what `response` gives once it is this request's turn; nothing where it gives None."""
        async with self._turn:
            if (data := await response()) is not None:
                self._since = time.monotonic()
                try:
                    await self._context.write(data)
                except Exception:  # the client has gone or the server has closed, and gRPC cancels the call
                    raise asyncio.CancelledError from None
                finally:
                    self._since = None

    async def write(self, data: bytes) -> None:
        """Writes a response when it is this request's turn."""

        async def ready() -> bytes:
            return data

        await self.send(ready)

    @property
    def slow(self) -> bool:
        """Whether the client takes its time to read; any thread may ask."""
        since = self._since
        return since is not None and time.monotonic() - since > SLOW_S


class Turn:
    """When something comes after another."""

    def __init__(self, before: "Turn | None") -> None:
        self._before, self._over = before, asyncio.Event()

    async def come(self) -> None:
        """Waits until the turn before is over."""
        if self._before is not None:
            await self._before._over.wait()
            self._before = None

    def end(self) -> None:
        """The next one may come."""
        self._over.set()


class Turns:
    """Turns one after another, in the order in which they are taken."""

    def __init__(self) -> None:
        self._last: Turn | None = None

    @contextlib.contextmanager
    def next(self) -> Iterator[Turn]:
        """A turn, which is over at the end."""
        self._last = turn = Turn(self._last)
        try:
            yield turn
        finally:
            turn.end()
