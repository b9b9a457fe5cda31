"""KServe v2 on the front: what the directory knows is answered here, the rest is forwarded."""

from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any, NamedTuple

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc.aio import ServicerContext
from tritonclient.grpc import service_pb2 as pb

from serving.front import asked, router
from serving.front.deadline import Deadline
from serving.front.forward import Forwarder
from serving.front.links import INFERENCE
from serving.front.metrics import FrontMetrics
from serving.front.outcome import Outcome
from serving.front.roster import Roster
from serving.wire import errors, kserve, received
from serving.wire.aside import aside
from serving.wire.small import parsed
from serving.wire.streams import UnderWay


class Rpc(NamedTuple):
    """A call: the bytes of its request, and what notes how it ends."""

    data: bytes
    context: ServicerContext
    outcome: Outcome


Answer = Callable[[Any], Awaitable[Message]]


class Inference:
    """The service `inference.GRPCInferenceService`; RPCs that are not served yet answer UNIMPLEMENTED."""

    def __init__(self, roster: Roster, forwarder: Forwarder, metrics: FrontMetrics, under_way: UnderWay) -> None:
        self._roster, self._forwarder, self._metrics, self._under_way = roster, forwarder, metrics, under_way
        self._answers: dict[str, Answer] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
        }

    def handler(self) -> grpc.GenericRpcHandler:
        """All methods, taking and giving bytes: so ModelInfer's tensors pass through without being rebuilt."""
        methods = {method.name: self._method(method) for method in INFERENCE.methods}
        return grpc.method_handlers_generic_handler(INFERENCE.full_name, methods)

    async def _server_live(self, request: pb.ServerLiveRequest) -> Message:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, request: pb.ServerReadyRequest) -> Message:
        return pb.ServerReadyResponse(ready=self._roster.index.any_ready)

    async def _server_metadata(self, request: pb.ServerMetadataRequest) -> Message:
        return pb.ServerMetadataResponse(name="tiltserve", version=_version(), extensions=["parameters"])

    async def _model_ready(self, request: pb.ModelReadyRequest) -> Message:
        try:
            router.choose(self._roster.index, request.name, request.version)
        except errors.RequestError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def _model_metadata(self, request: pb.ModelMetadataRequest) -> Message:
        model = router.choose(self._roster.index, request.name, request.version).model
        versions = router.versions(self._roster.index.models[model.name].states)
        return kserve.model_metadata(model.name, versions, model.inputs, model.outputs)

    async def _model_infer(self, call: Rpc) -> bytes:
        came = await aside(len(call.data), lambda: received.infer(call.data))
        call.outcome.model = came.model
        request = asked.of(came)
        deadline = Deadline(call.context.time_remaining(), request.timeout_s)
        return await self._forwarder.infer(request, call.data, deadline)

    def _method(self, method: MethodDescriptor) -> grpc.RpcMethodHandler:
        answer = self._body(method)

        async def unary(data: bytes, context: ServicerContext) -> bytes:
            """Answers one call, turning errors into statuses and counting how it ended."""
            self._under_way.add(context)
            async with Outcome(method.name, context, self._roster, self._metrics) as outcome:
                return await answer(Rpc(data, context, outcome))

        async def stream(requests: object, context: ServicerContext) -> bytes:
            return await unary(b"", context)

        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)

    def _body(self, method: MethodDescriptor) -> Callable[[Rpc], Awaitable[bytes]]:
        """What answers a method."""
        if method.name == "ModelInfer":
            return self._model_infer
        answer, parse = self._answers.get(method.name), GetMessageClass(method.input_type).FromString

        async def body(call: Rpc) -> bytes:
            if answer is None:
                raise errors.unimplemented(f"{method.name} is not served by tiltserve yet")
            request = parsed(call.data, parse)
            call.outcome.model = getattr(request, "name", "")
            return (await answer(request)).SerializeToString()

        return body


def _version() -> str:
    try:
        return metadata.version("tiltserve")
    except metadata.PackageNotFoundError:
        return "unknown"
