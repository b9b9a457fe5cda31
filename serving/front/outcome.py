"""How a call to the front ends: errors become statuses, and every end is counted and told to who watches."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import NoReturn, Self

import grpc
from grpc.aio import ServicerContext

from serving.access.caller import caller
from serving.front.metrics import FrontMetrics
from serving.front.roster import Roster
from serving.watching import times
from serving.watching.record import working_on
from serving.wire import errors
from serving.wire.received import Received

_log = logging.getLogger(__name__)
_ROUNDED, _ON_THE_WAY_S = 0.01, 0.1


class Outcome:
    """Wraps the body of a call; the body sets `model` as soon as it knows it.

    Args:
        end: ends the call with an error, once it is counted; None for the status of `context`. A stream of many
            requests, each with an outcome of its own, ends none of the others.

    Attributes:
        record: what else is known of the call.
    """

    def __init__(
        self,
        method: str,
        context: ServicerContext,
        roster: Roster,
        metrics: FrontMetrics,
        end: Callable[[errors.RequestError], Awaitable[NoReturn]] | None = None,
    ) -> None:
        self._watching = metrics.watching
        self.record = self._watching.begin(method, context)
        self.record.identity = caller().name
        self._here = contextlib.ExitStack()
        self._method, self._context, self._roster, self._metrics = method, context, roster, metrics
        self._end = end or (lambda error: errors.abort(context, error))
        self._began, self._given_s = time.perf_counter(), context.time_remaining()

    @property
    def model(self) -> str:
        return self.record.model

    @model.setter
    def model(self, name: str) -> None:
        self.record.model = name
        self._watching.open(self.record)

    def reads(self, came: Received, *, of_many: bool = False) -> None:
        """The request of the call was read; `of_many`: one of a stream of them."""
        self.record.calls_itself(came.id, of_many=of_many)
        self.model = came.model
        self.record.tells(came.parameters)

    async def __aenter__(self) -> Self:
        self._here.enter_context(working_on(self.record))
        self._here.enter_context(self._metrics.in_flight.labels(self._method).track_inprogress())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._here:
            await self._close(error)

    async def _close(self, error: BaseException | None) -> None:
        # counted before the status is sent: a client that has the status finds it counted
        if error is None:
            self._count(grpc.StatusCode.OK)
        elif isinstance(error, errors.RequestError):
            self._count(error.code)
            await self._end(error)
        elif isinstance(error, asyncio.CancelledError):
            self._count(grpc.StatusCode.DEADLINE_EXCEEDED if self._late else grpc.StatusCode.CANCELLED)
        elif isinstance(error, Exception):
            _log.error("%s failed", self._method, exc_info=error)
            self._count(grpc.StatusCode.INTERNAL)
            await self._end(errors.internal(f"{self._method} failed inside the front; its log says why"))

    @property
    def _late(self) -> bool:
        """Whether a caller that left had no more time. Its clock may say so first: gRPC rounds the time that it sends
        up, by a hundredth at most, and it runs from when the call comes, which on a busy machine is later."""
        left, given = self._context.time_remaining(), self._given_s
        if left is None or given is None:
            return False
        return left <= _ROUNDED * given + min(_ON_THE_WAY_S, given / 4)

    def _count(self, code: grpc.StatusCode) -> None:
        known = self.model if self.model in self._roster.index.models else ""
        self._metrics.finished(known, self.record, code, time.perf_counter() - self._began)
        self._watching.end(self.record, code)
        self.record.times = times.with_total(self.record.times, self.record.seconds)
        if code is not grpc.StatusCode.CANCELLED:
            self._context.set_trailing_metadata(self.record.trailing())
