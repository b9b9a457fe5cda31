"""Work on large messages, on threads beside the event loop, so that others are answered meanwhile."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

SMALL = 2**16
"""Bytes of a message whose work takes a millisecond or two: it stays on the loop."""

_THREADS = ThreadPoolExecutor(2, "large message")


async def aside(size: int, work: Callable[[], Result]) -> Result:
    """What `work` on so many bytes returns; on another thread where they are many, in the same context."""
    if size <= SMALL:
        return work()
    here = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_THREADS, here.run, work)
