"""tiltserve.v1.Sampling on the front: streams between clients and replicas, forwarded as the bytes they come in."""

import secrets
from collections.abc import AsyncIterator

import grpc
from grpc.aio import ServicerContext

from protos.tiltserve.v1 import sampling_pb2
from serving.front import asked
from serving.front.deadline import Deadline
from serving.front.forward import Forwarder
from serving.front.inference import parsed
from serving.front.links import SAMPLING
from serving.front.metrics import FrontMetrics
from serving.front.outcome import Outcome
from serving.front.roster import Roster
from serving.wire import interactive


class Sampling:
    """The service; only the first message of a stream is read here."""

    def __init__(self, roster: Roster, forwarder: Forwarder, metrics: FrontMetrics) -> None:
        self._roster, self._forwarder, self._metrics = roster, forwarder, metrics

    def handler(self) -> grpc.GenericRpcHandler:
        """Its methods, taking and giving bytes."""
        return grpc.method_handlers_generic_handler(
            SAMPLING.full_name, {"SampleInteractive": grpc.stream_stream_rpc_method_handler(self._interact)}
        )

    async def _interact(self, requests: AsyncIterator[bytes], context: ServicerContext) -> None:
        async with Outcome("SampleInteractive", context, self._roster, self._metrics) as call:
            message = parsed(sampling_pb2.InteractiveRequest.FromString, await anext(requests, b""))
            sample = interactive.sample_request(message)
            call.model = sample.model
            request = asked.of_sample(sample, interactive.CLIENT)
            deadline = Deadline(context.time_remaining(), request.timeout_s)
            if not request.seeded:
                sample.parameters["seed"].integer = secrets.randbelow(2**63)
            await self._forwarder.interact(request, message.SerializeToString(), requests, context.write, deadline)
