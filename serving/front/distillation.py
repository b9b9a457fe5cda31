"""tiltserve.v1.Distillation on the front: each gradient, also of a stream, goes to a replica as a call of its own."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NoReturn

import grpc
from grpc.aio import ServicerContext

from serving.front.asked import AskedGradient
from serving.front.deadline import Deadline
from serving.front.forward import Forwarder
from serving.front.links import DISTILLATION
from serving.front.metrics import FrontMetrics
from serving.front.outcome import Outcome
from serving.front.roster import Roster
from serving.wire import distillation, errors, streamed
from serving.wire.aside import aside
from serving.wire.distillation import Session, Wanted
from serving.wire.inflight import InFlight, Sender, Turns
from serving.wire.streams import Streams, UnderWay

Pieces = Sequence[bytes | memoryview]
"""A message, to be joined."""


class Distillation:
    """The service. A replica's response passes through as the bytes it comes in.

    Args:
        longest: most bytes of a request, also of one that a stream's common request is merged with.
    """

    def __init__(
        self,
        roster: Roster,
        forwarder: Forwarder,
        metrics: FrontMetrics,
        under_way: UnderWay,
        streams: Streams,
        longest: int,
    ) -> None:
        self._roster, self._forwarder, self._metrics = roster, forwarder, metrics
        self._under_way, self._streams, self._longest = under_way, streams, longest

    def handler(self) -> grpc.GenericRpcHandler:
        """Its methods, taking and giving bytes."""
        return grpc.method_handlers_generic_handler(
            DISTILLATION.full_name,
            {
                "Gradient": grpc.unary_unary_rpc_method_handler(self._gradient),
                "Session": grpc.stream_stream_rpc_method_handler(self._session),
            },
        )

    async def _gradient(self, data: bytes, context: ServicerContext) -> bytes:
        self._under_way.add(context)
        async with Outcome("Gradient", context, self._roster, self._metrics) as outcome:
            return await self._answer([data], context, outcome)

    async def _session(self, messages: AsyncIterator[bytes], context: ServicerContext) -> None:
        """Several requests are under way at a time, within the bounds of `InFlight`; responses keep their order."""
        self._under_way.add(context)
        in_flight, sender, session, turns = InFlight(), Sender(context), Session(), Turns()
        as_status = streamed.as_status(context)

        async def answer(message: bytes) -> None:
            # until the first await, messages are looked at one after another, as they came
            refused: errors.RequestError | None = None
            pieces: Pieces = ()
            try:
                pieces = session.request(message)
                if not pieces:
                    return
            except errors.RequestError as fault:
                refused = fault
            let_go = in_flight.hold(len(pieces[0]) if pieces else 0)
            with turns.next() as turn:
                try:
                    response, failed = await self._of_session(pieces, refused, context)
                finally:
                    let_go()
                await turn.come()
                if failed is not None and as_status:
                    raise failed
                await in_flight.write(sender, response)

        await in_flight.serve(messages, self._streams, answer, context)

    async def _of_session(
        self, pieces: Pieces, refused: errors.RequestError | None, context: ServicerContext
    ) -> tuple[bytes, errors.RequestError | None]:
        """The response to one request of a stream, and the error that it tells; `refused` says why it is none."""
        request_id = ""

        def note(wanted: Wanted) -> None:
            nonlocal request_id
            request_id = wanted.request.id

        try:
            async with Outcome("Session", context, self._roster, self._metrics, _raised) as outcome:
                if refused is not None:
                    raise refused
                return distillation.answered(await self._answer(pieces, context, outcome, note)), None
        except errors.RequestError as error:
            return distillation.failed(error, request_id), error

    async def _answer(
        self, pieces: Pieces, context: ServicerContext, outcome: Outcome, note: Callable[[Wanted], None] | None = None
    ) -> bytes:
        """A serialised GradientResponse.

        Args:
            note: is told what was read, for a request of a stream of many.
        """
        size = sum(map(len, pieces))
        if size > self._longest:
            raise errors.invalid(f"expected a request of at most {self._longest} bytes with what is common, got {size}")

        def read() -> tuple[bytes, Wanted]:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            return bytes(data), distillation.read(bytes(data))

        with outcome.record.phase("receive"):
            data, wanted = await aside(size, read)
        outcome.record.bytes_in = len(data)
        outcome.reads(wanted.request, of_many=note is not None)
        if note is not None:
            note(wanted)
        with self._forwarder.statistics.failures(wanted.request.model, wanted.request.version):
            asked = AskedGradient.of(wanted)
            deadline = Deadline(context.time_remaining(), asked.timeout_s)
            reply = await self._forwarder.gradient(asked, data, deadline)
        outcome.record.bytes_out = len(reply)
        return reply


async def _raised(error: errors.RequestError) -> NoReturn:
    raise error
