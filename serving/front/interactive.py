"""tiltserve.v1.Sampling on the front: streams between clients and replicas, forwarded as the bytes they come in."""

import secrets
from collections.abc import AsyncIterator

import grpc
from grpc.aio import ServicerContext

from protos.tiltserve.v1 import sampling_pb2
from serving.front.deadline import Deadline
from serving.front.forward import Forwarder
from serving.front.inference import parsed, timeout_parameter
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
            request = interactive.infer_request(message)
            call.model = request.model_name
            if "seed" not in message.sample.parameters:
                message.sample.parameters["seed"].integer = secrets.randbelow(2**63)
            deadline = Deadline(context.time_remaining(), timeout_parameter(request))
            await self._forwarder.interact(request, message.SerializeToString(), requests, context.write, deadline)
