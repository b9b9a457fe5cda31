"""ModelStreamInfer on the front: each request of a stream goes to a replica on a stream of its own."""

import asyncio
from collections.abc import AsyncIterator
from typing import NoReturn

import grpc
from grpc.aio import ServicerContext

from serving.front import asked
from serving.front.asked import Asked
from serving.front.deadline import Deadline
from serving.front.forward import Forwarder
from serving.front.metrics import FrontMetrics
from serving.front.outcome import Outcome
from serving.front.roster import Roster
from serving.front.shared_memory import SharedMemory
from serving.wire import errors, received, streamed
from serving.wire.aside import aside
from serving.wire.inflight import InFlight, Sender
from serving.wire.streamed import Place
from serving.wire.streams import Streams, UnderWay
from serving.wire.waiting import Waiting

METHOD = "ModelStreamInfer"


class Streaming:
    """The method. Responses pass through as the bytes they come in."""

    def __init__(
        self,
        roster: Roster,
        forwarder: Forwarder,
        metrics: FrontMetrics,
        under_way: UnderWay,
        streams: Streams,
        shared_memory: SharedMemory,
    ) -> None:
        self._roster, self._forwarder, self._metrics = roster, forwarder, metrics
        self._under_way, self._streams, self._shared_memory = under_way, streams, shared_memory

    def handler(self) -> grpc.RpcMethodHandler:
        """The method, taking and giving bytes."""
        return grpc.stream_stream_rpc_method_handler(self._stream)

    async def _stream(self, messages: AsyncIterator[bytes], context: ServicerContext) -> None:
        self._under_way.add(context)
        sender, in_flight, as_status = Sender(context), InFlight(), streamed.as_status(context)

        async def answer(data: bytes) -> None:
            model = request_id = ""
            try:
                async with Outcome(METHOD, context, self._roster, self._metrics, _raised) as outcome:
                    record = outcome.record
                    with record.phase("receive"):
                        came = await aside(len(data), lambda: received.infer(data))
                    record.bytes_in = len(data)
                    outcome.reads(came, of_many=True)
                    model, request_id = came.model, came.id
                    with self._forwarder.statistics.failures(came.model, came.version):
                        request = asked.of(came)
                        deadline = Deadline(context.time_remaining(), request.timeout_s)
                        data, places = await self._shared_memory.filled(data, came)
                        if places.outputs:  # of several responses the last would be left there
                            raise errors.invalid("outputs: expected shared memory in ModelInfer alone, got some")
                        last = await self._last(request, data, deadline, sender)
                    record.bytes_out = len(last)
            except errors.RequestError as error:
                if as_status:
                    raise
                last = streamed.failed(error, model, request_id)
            await in_flight.write(sender, last)

        await in_flight.serve(messages, self._streams, answer, context)

    async def _last(self, request: Asked, data: bytes, deadline: Deadline, sender: Sender) -> bytes:
        """The last response to a request, once those before it are sent."""
        waiting = Waiting[bytes](sender)

        async def deliver(reply: bytes, place: Place) -> None:
            waiting.put(reply, len(reply), preview=place.preview)
            await waiting.room()

        async def as_it_is(reply: bytes) -> bytes:
            return reply

        forwarding = self._forwarder.stream(request, data, deliver, deadline)
        if streamed.at_once(request.parameters):
            return await forwarding
        return await waiting.send(asyncio.ensure_future(forwarding), as_it_is)


async def _raised(error: errors.RequestError) -> NoReturn:
    raise error
