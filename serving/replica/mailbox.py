"""What a streamed request has to send, between the engine's threads and the event loop."""

import asyncio
import contextlib
import threading
from collections import deque
from typing import Any

from serving.models.model import Model
from serving.requests.previews import Preview
from serving.wire.answer import Answer
from serving.wire.inflight import Sender

MOST_PREVIEWS, MOST_BYTES = 32, 2**20
"""Previews of a request that wait, and their bytes; the newest always may."""


class Mailbox:
    """What one request has to send before its answer, in order. Make it on the event loop.

    Finished samples are never dropped. Of previews the oldest are, beyond the bounds; and all but the newest while the
    client does not read. Nobody waits for room: the engine goes on.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender, self._loop = sender, asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._parts: deque[tuple[Model, Preview | Answer]] = deque()
        self._rung = asyncio.Event()

    def put(self, model: Model, part: Preview | Answer) -> None:
        """Takes what is to be sent; called on any thread."""
        with self._lock:
            ringing = not self._parts
            if self._sender.slow:
                self._parts = deque(each for each in self._parts if isinstance(each[1], Answer))
            self._parts.append((model, part))
            if isinstance(part, Preview):
                self._bound()
        if ringing:
            with contextlib.suppress(RuntimeError):  # the server has stopped
                self._loop.call_soon_threadsafe(self._rung.set)

    def take(self) -> tuple[Model, Preview | Answer] | None:
        """What is to be sent next, if there is anything."""
        with self._lock:
            return self._parts.popleft() if self._parts else None

    async def filled(self, ended: "asyncio.Future[Any]") -> bool:
        """Waits until there is something; False once there is nothing, and nothing will come."""
        while not self._parts:
            if ended.done():
                return bool(self._parts)  # what was put before the end is there
            self._rung.clear()
            ringing: asyncio.Future[Any] = asyncio.ensure_future(self._rung.wait())
            try:
                await asyncio.wait({ringing, ended}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ringing.cancel()
        return True

    def _bound(self) -> None:
        previews = [each for _, each in self._parts if isinstance(each, Preview)]
        size = sum(each.nbytes for each in previews)
        for oldest in previews[:-1]:
            if len(previews) <= MOST_PREVIEWS and size <= MOST_BYTES:
                return
            self._parts = deque(each for each in self._parts if each[1] is not oldest)
            previews, size = previews[1:], size - oldest.nbytes
