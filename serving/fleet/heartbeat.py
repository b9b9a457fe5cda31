"""A replica's heartbeat, on a thread and an event loop of its own: whatever the replica reads or plans, it goes on."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

from serving.fleet.directory import DirectoryClient, ReplicaState, Wish

_log = logging.getLogger(__name__)
EVERY_S = 1.0
AGAIN_S = 0.25
"""Seconds until a heartbeat that did not arrive is told again: a directory that begins anew hears of everybody within
the lease."""


class Heartbeat:
    """Tells the directory how a replica is, every `every_s` seconds from now on.

    Args:
        state: what to tell; called on the thread.
        hear: told what is wished of models; called on the thread.
    """

    def __init__(
        self,
        directory: DirectoryClient,
        state: Callable[[], ReplicaState],
        hear: Callable[[Sequence[Wish]], None] = lambda wishes: None,
        every_s: float = EVERY_S,
    ) -> None:
        self._directory, self._state, self._hear, self._every_s = directory, state, hear, every_s
        self._last, self._told = time.monotonic(), True
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    async def now(self) -> None:
        """Tell at once. For any event loop."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._tell(), self._loop))

    def check(self, still_s: float) -> None:
        """Raises RuntimeError when the thread has ended, or nothing was told, nor could be, for `still_s` seconds."""
        if not self._thread.is_alive():
            raise RuntimeError("the heartbeat: expected it to run, it has ended")
        if (idle := time.monotonic() - self._last) > still_s:
            raise RuntimeError(f"the heartbeat: expected progress within {still_s:g} s, got none for {idle:.0f} s")

    async def stop(self) -> None:
        """Ends the thread. For any event loop."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._beat())

    async def _beat(self) -> None:
        while not self._stopping.is_set():
            told = await self._tell()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._every_s if told else min(self._every_s, AGAIN_S))

    async def _tell(self) -> bool:
        """Whether it arrived."""
        try:
            self._hear(await self._directory.beat(self._state()))
            told = True
        except Exception as error:  # the directory is restarting; a later heartbeat reaches it
            told = False
            if self._told:
                _log.warning("heartbeat: %s", str(error) or type(error).__name__)  # a TimeoutError has no text
        self._last, self._told = time.monotonic(), told
        return told
