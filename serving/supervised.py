"""A background task that comes back when it fails. Imports nothing of ours."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)


class Supervised:
    """Awaits `run` until it returns, and anew, after a pause, whenever it raises. Make it on an event loop.

    Args:
        name: what the log and health checks call it.
        pause_s: seconds between a failure and the next try.

    Attributes:
        failures: how often in a row it has raised, with no `progressed` between.
    """

    def __init__(self, name: str, run: Callable[[], Awaitable[None]], pause_s: float = 1.0) -> None:
        self.name, self.failures = name, 0
        self._run, self._pause_s = run, pause_s
        self._last = time.monotonic()
        self._task = asyncio.create_task(self._keep())

    def progressed(self) -> None:
        """Said by `run` each time that it has done its work once."""
        self._last, self.failures = time.monotonic(), 0

    @property
    def ended(self) -> bool:
        """`run` has returned, or was stopped."""
        return self._task.done()

    def check(self, still_s: float) -> None:
        """Raises RuntimeError when a task that runs for ever has ended, or made no progress for `still_s` seconds."""
        if self.ended:
            raise RuntimeError(f"{self.name}: expected it to run, it has ended")
        if (idle := time.monotonic() - self._last) > still_s:
            raise RuntimeError(
                f"{self.name}: expected progress within {still_s:g} s, got none for {idle:.0f} s "
                f"and {self.failures} failures in a row"
            )

    async def stop(self) -> None:
        """Cancels it and waits for its end."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _keep(self) -> None:
        while True:
            try:
                return await self._run()
            except Exception:
                self.failures += 1
                _log.exception("%s failed (%d in a row), again in %g s", self.name, self.failures, self._pause_s)
            await asyncio.sleep(self._pause_s)
