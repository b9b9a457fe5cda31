"""KServe v2 on the front: what the directory knows is answered here, the rest is forwarded."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc.aio import ServicerContext

from serving.front import asked
from serving.front.deadline import Deadline
from serving.front.forward import Forwarder
from serving.front.links import INFERENCE
from serving.front.metadata import Metadata
from serving.front.metrics import FrontMetrics
from serving.front.outcome import Outcome
from serving.front.part import Answer, Part
from serving.front.roster import Roster
from serving.front.shared_memory import SharedMemory
from serving.front.streaming import Streaming
from serving.wire import received
from serving.wire.aside import aside
from serving.wire.small import parsed
from serving.wire.streams import Streams, UnderWay


class Rpc(NamedTuple):
    """A call: the bytes of its request, and what notes how it ends."""

    data: bytes
    context: ServicerContext
    outcome: Outcome


class Inference:
    """The service `inference.GRPCInferenceService`, all of its RPCs.

    Args:
        shared_memory: where tensors may lie.
        parts: what answers RPCs other than inference, metadata and those for shared memory.
    """

    def __init__(
        self,
        roster: Roster,
        forwarder: Forwarder,
        metrics: FrontMetrics,
        under_way: UnderWay,
        streams: Streams,
        shared_memory: SharedMemory,
        parts: Sequence[Part] = (),
    ) -> None:
        self._roster, self._forwarder, self._metrics, self._under_way = roster, forwarder, metrics, under_way
        self._shared_memory, parts = shared_memory, (shared_memory, *parts)
        self._streaming = Streaming(roster, forwarder, metrics, under_way, streams, shared_memory)
        metadata = Metadata(roster, (name for part in parts for name in part.extensions))
        self._answers: Mapping[str, Answer] = {
            name: answer for part in (metadata, *parts) for name, answer in part.answers.items()
        }

    def handler(self) -> grpc.GenericRpcHandler:
        """All methods, taking and giving bytes: so ModelInfer's tensors pass through without being rebuilt."""
        methods = {method.name: self._method(method) for method in INFERENCE.methods}
        return grpc.method_handlers_generic_handler(INFERENCE.full_name, methods)

    async def _model_infer(self, call: Rpc) -> bytes:
        with call.outcome.record.phase("receive"):
            came = await aside(len(call.data), lambda: received.infer(call.data))
        call.outcome.reads(came)
        with self._forwarder.statistics.failures(came.model, came.version):
            request = asked.of(came)
            deadline = Deadline(call.context.time_remaining(), request.timeout_s)
            data, places = await self._shared_memory.filled(call.data, came)
            return await self._shared_memory.put(await self._forwarder.infer(request, data, deadline), places)

    def _method(self, method: MethodDescriptor) -> grpc.RpcMethodHandler:
        if method.name == "ModelStreamInfer":
            return self._streaming.handler()
        answer = self._body(method)

        async def unary(data: bytes, context: ServicerContext) -> bytes:
            """Answers one call, turning errors into statuses and counting how it ended."""
            self._under_way.add(context)
            async with Outcome(method.name, context, self._roster, self._metrics) as outcome:
                outcome.record.bytes_in = len(data)
                reply = await answer(Rpc(data, context, outcome))
                outcome.record.bytes_out = len(reply)
                return reply

        return grpc.unary_unary_rpc_method_handler(unary)

    def _body(self, method: MethodDescriptor) -> Callable[[Rpc], Awaitable[bytes]]:
        """What answers a method."""
        if method.name == "ModelInfer":
            return self._model_infer
        answer, parse = self._answers[method.name], GetMessageClass(method.input_type).FromString
        named = "model_name" if "model_name" in method.input_type.fields_by_name else "name"
        of_model = method.name not in self._shared_memory.answers  # whose names are those of regions

        async def body(call: Rpc) -> bytes:
            request = parsed(call.data, parse)
            call.outcome.model = getattr(request, named, "") if of_model else ""
            return (await answer(request)).SerializeToString()

        return body
