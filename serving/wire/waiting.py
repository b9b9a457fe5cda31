"""What a streamed request has to send before its last response, while it waits for its turn and for its reader."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, NamedTuple, TypeVar

from serving.wire.inflight import Sender

Part = TypeVar("Part")
Result = TypeVar("Result")

MOST_PREVIEWS, MOST_BYTES = 32, 2**20
"""Previews of a request that wait, and their bytes; the newest always may."""
AHEAD, MOST_AHEAD = 4 * 2**20, 256
"""Bytes of a request's responses, and their number, that wait before whoever makes them waits: a front that takes them
from a replica, or a request that sends its path."""


class _Waiting(NamedTuple, Generic[Part]):
    part: Part
    size: int
    preview: bool


class Waiting(Generic[Part]):
    """The parts of one request's responses that wait to be sent, in order. Make it on the event loop.

    Finished samples are never dropped. Of previews the oldest are, beyond the bounds; and all but the newest while the
    client does not read. Whoever puts something there does not wait.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender, self._loop = sender, asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._parts: deque[_Waiting[Part]] = deque()
        self._there, self._sent = asyncio.Event(), asyncio.Event()

    @property
    def crowded(self) -> bool:
        """Whether so much waits that whoever can wait should."""
        with self._lock:
            return self._full()

    def put(self, part: Part, size: int, *, preview: bool) -> None:
        """Takes a part of so many bytes; called on any thread."""
        with self._lock:
            ringing = not self._parts
            if self._sender.slow:
                self._parts = deque(each for each in self._parts if not each.preview)
            self._parts.append(_Waiting(part, size, preview))
            self._bound()
        if ringing:
            with contextlib.suppress(RuntimeError):  # the server has stopped
                self._loop.call_soon_threadsafe(self._there.set)

    async def room(self) -> None:
        """Waits until what waits is little, for whoever puts in there what waits as well elsewhere."""
        while self.crowded:
            self._sent.clear()
            await self._sent.wait()

    async def send(self, until: "asyncio.Future[Result]", response: Callable[[Part], Awaitable[bytes]]) -> Result:
        """Sends each part as the response that is made of it when it is its turn, until `until` is done and all are
        sent; its result. Cancels it where it cannot go on."""

        async def newest() -> bytes | None:
            return None if (taken := self._take()) is None else await response(taken)

        try:
            while await self._filled(until):
                await self._sender.send(newest)
            return await until
        finally:
            until.cancel()

    def _take(self) -> Part | None:
        with self._lock:
            taken = self._parts.popleft().part if self._parts else None
        self._sent.set()
        return taken

    async def _filled(self, until: "asyncio.Future[Any]") -> bool:
        """Waits until there is something; False once there is nothing, and nothing will come."""
        while not self._parts:
            if until.done():
                return bool(self._parts)  # what was put before the end is there
            self._there.clear()
            if self._parts:
                break
            ringing: asyncio.Future[Any] = asyncio.ensure_future(self._there.wait())
            try:
                await asyncio.wait({ringing, until}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ringing.cancel()
        return True

    def _full(self) -> bool:
        return len(self._parts) > MOST_AHEAD or sum(each.size for each in self._parts) > AHEAD

    def _bound(self) -> None:
        previews = [each for each in self._parts if each.preview]
        count, size = len(previews), sum(each.size for each in previews)
        for oldest in previews[:-1]:
            if count <= MOST_PREVIEWS and size <= MOST_BYTES:
                return
            self._parts = deque(each for each in self._parts if each is not oldest)
            count, size = count - 1, size - oldest.size
