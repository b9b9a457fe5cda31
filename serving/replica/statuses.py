"""How a call to a replica begins and ends: its errors become statuses, and a long one says that it was taken on."""

import asyncio
import contextlib
import logging

from grpc.aio import ServicerContext

from serving.wire import errors

_log = logging.getLogger(__name__)
UNEXPECTED = "an unexpected error, see the replica's log"
AT_ONCE_S = 0.05
"""A request that takes no longer needs not say that it was begun."""


class Statuses:
    """Around the body of a call: its errors become statuses."""

    def __init__(self, method: str, context: ServicerContext) -> None:
        self._method, self._context = method, context

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, errors.RequestError):
            await errors.abort(self._context, error)
        if isinstance(error, Exception):
            _log.error("%s", self._method, exc_info=error)
            await errors.abort(self._context, errors.internal(UNEXPECTED))


class Begun:
    """Around the work on a request that was read: says that it has begun, unless it ends at once."""

    def __init__(self, context: ServicerContext) -> None:
        self._context = context
        self._saying: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(AT_ONCE_S, self._start)

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._saying is not None:  # the answer must not overtake it
            await self._saying

    def _start(self) -> None:
        self._saying = asyncio.create_task(self._say())

    async def _say(self) -> None:
        with contextlib.suppress(Exception):  # the caller has left
            await self._context.send_initial_metadata((errors.BEGUN,))
