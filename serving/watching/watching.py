"""Who is told of calls: the access log and spans, each where it is wanted."""

import time
from typing import TYPE_CHECKING

import grpc
from grpc.aio import ServicerContext

from serving.watching import access
from serving.watching.record import TRAILING, Record

if TYPE_CHECKING:
    from serving.watching.spans import Spans

TRACED = frozenset({"ModelInfer", "ModelStreamInfer", "SampleInteractive", "Gradient", "Session"})


class Watching:
    """Makes the record of each call and tells of it when the call has ended.

    Args:
        access_log: write a line for each call.
        spans: where spans go; None for nowhere.
    """

    def __init__(self, *, access_log: bool = False, spans: "Spans | None" = None) -> None:
        self.access_log, self.spans = access_log, spans

    def begin(self, method: str, context: ServicerContext) -> Record:
        """The record of a call that has just come."""
        record = Record(method, context.invocation_metadata() or ())
        if self.access_log or self.spans is not None:
            record.peer = context.peer()
        if self.access_log and not record.asks:
            record.asks = TRAILING
        return record

    def open(self, record: Record) -> None:
        """What a request is for is known, and its trace begins; only those for inference have one."""
        if self.spans is not None and record.trace is None and record.method in TRACED:
            record.trace = self.spans.open(record)

    def end(self, record: Record, code: grpc.StatusCode) -> None:
        """A call has ended so."""
        record.ended, record.code = time.monotonic(), code
        if self.access_log:
            access.write(record)
        if self.spans is not None:
            self.open(record)
            if record.trace is not None:
                record.trace.end(record)

    def refused(self, method: str, context: ServicerContext, code: grpc.StatusCode, identity: str) -> None:
        """A call was refused before it was read: it has a line, and no span, which anybody could have made then."""
        if self.access_log:
            record = self.begin(method, context)
            record.identity, record.ended, record.code = identity, time.monotonic(), code
            access.write(record)

    async def close(self) -> None:
        """Send what is left to be told."""
        if self.spans is not None:
            await self.spans.close()
