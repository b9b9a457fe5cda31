"""How a call to a replica begins and ends: its errors become statuses, its times are told, and a long one says that it
was taken on."""

import asyncio
import contextlib
import logging
from contextlib import ExitStack

import grpc
from grpc.aio import ServicerContext

from serving.replica import account
from serving.watching.record import Record, working_on
from serving.watching.watching import Watching
from serving.wire import errors

_log = logging.getLogger(__name__)
UNEXPECTED = "an unexpected error, see the replica's log"
AT_ONCE_S = 0.05
"""A request that takes no longer needs not say that it was begun."""


class Recorded:
    """Around the body of a call, or of a request of one: gives it its record, and tells how it ended."""

    def __init__(self, method: str, context: ServicerContext, watching: Watching | None = None) -> None:
        self._method, self._context, self._watching = method, context, watching or Watching()
        self._here = ExitStack()

    async def __aenter__(self) -> Record:
        self._record = self._watching.begin(self._method, self._context)
        self._watching.open(self._record)
        return self._here.enter_context(working_on(self._record))

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        with self._here:
            if error is None:
                self._end(grpc.StatusCode.OK)
            elif isinstance(error, errors.RequestError):
                self._end(error.code)
            elif isinstance(error, Exception):
                _log.error("%s", self._method, exc_info=error)
                self._end(grpc.StatusCode.INTERNAL)
            else:
                self._end(grpc.StatusCode.CANCELLED)

    def _end(self, code: grpc.StatusCode) -> None:
        account.close(self._record)
        self._watching.end(self._record, code)
        self._context.set_trailing_metadata(self._record.trailing())


class Statuses(Recorded):
    """Around the body of a call, which gets its record: its errors become statuses."""

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        await super().__aexit__(kind, error, trace)
        if isinstance(error, errors.RequestError):
            await errors.abort(self._context, error)
        if isinstance(error, Exception):
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
