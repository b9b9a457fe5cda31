"""What a request computes that is no network's: on threads beside the engine, which serves others meanwhile."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from serving.backends import Array
from serving.engine.task import External

_THREADS = ThreadPoolExecutor(2, "pictures")


def beside(name: str, work: Callable[[], Sequence[Array]]) -> External:
    """Work that a program waits for, counted under `name`; what it gives is the reply.

    A request that leaves does not stop work that has begun: it is that of one part of a request, and bounded.
    """

    def start() -> Future[list[Array]]:
        return _THREADS.submit(lambda: list(work()))

    return External(name, 0, start)
