"""tiltserve.v1.Sampling on the front: streams between clients and replicas, forwarded as the bytes they come in."""

import secrets
from collections.abc import AsyncIterator

import grpc
from grpc.aio import ServicerContext

from serving.front import asked
from serving.front.deadline import Deadline
from serving.front.forward import Forwarder
from serving.front.links import SAMPLING
from serving.front.metrics import FrontMetrics
from serving.front.outcome import Outcome
from serving.front.roster import Roster
from serving.wire import interactive, received
from serving.wire.aside import aside
from serving.wire.streams import Streams, UnderWay


class Sampling:
    """The service; only the first message of a stream is read here."""

    def __init__(
        self, roster: Roster, forwarder: Forwarder, metrics: FrontMetrics, under_way: UnderWay, streams: Streams
    ) -> None:
        self._roster, self._forwarder, self._metrics = roster, forwarder, metrics
        self._under_way, self._streams = under_way, streams

    def handler(self) -> grpc.GenericRpcHandler:
        """Its methods, taking and giving bytes."""
        return grpc.method_handlers_generic_handler(
            SAMPLING.full_name, {"SampleInteractive": grpc.stream_stream_rpc_method_handler(self._interact)}
        )

    async def _interact(self, requests: AsyncIterator[bytes], context: ServicerContext) -> None:
        async with Outcome("SampleInteractive", context, self._roster, self._metrics) as call:
            first = await self._streams.first(requests)
            self._under_way.add(context)
            came = await aside(len(first), lambda: received.sample(first))
            call.record.bytes_in = len(first)
            call.reads(came)
            with self._forwarder.statistics.failures(came.model, came.version):
                request = asked.of(came, interactive.CLIENT)
                deadline = Deadline(context.time_remaining(), request.timeout_s)
                if not request.seeded:
                    first = interactive.with_seed(first, secrets.randbelow(2**63))
                await self._forwarder.interact(request, first, self._scores(requests), context.write, deadline)

    async def _scores(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The messages after the first."""
        while True:
            try:
                yield interactive.bounded(await self._streams.answered(requests, "the client's scores"))
            except StopAsyncIteration:
                return
