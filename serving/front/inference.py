"""KServe v2 on the front: what the directory knows is answered here, the rest is forwarded."""

from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any, NamedTuple, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
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
from serving.wire import errors, kserve


class Rpc(NamedTuple):
    """A request as a message and as the bytes it came in, with the seconds that gRPC leaves for it."""

    request: Any
    data: bytes
    seconds: float | None


Handler = Callable[[Rpc], Awaitable[Message | bytes]]
Parsed = TypeVar("Parsed", bound=Message)


class Inference:
    """The service `inference.GRPCInferenceService`; RPCs that are not served yet answer UNIMPLEMENTED."""

    def __init__(self, roster: Roster, forwarder: Forwarder, metrics: FrontMetrics) -> None:
        self._roster, self._forwarder, self._metrics = roster, forwarder, metrics
        self._answers: dict[str, Handler] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }

    def handler(self) -> grpc.GenericRpcHandler:
        """All methods, taking and giving bytes: so ModelInfer's tensors pass through without being rebuilt."""
        methods = {method.name: self._method(method) for method in INFERENCE.methods}
        return grpc.method_handlers_generic_handler(INFERENCE.full_name, methods)

    async def _server_live(self, call: Rpc) -> Message:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, call: Rpc) -> Message:
        return pb.ServerReadyResponse(ready=self._roster.index.any_ready)

    async def _server_metadata(self, call: Rpc) -> Message:
        return pb.ServerMetadataResponse(name="tiltserve", version=_version(), extensions=["parameters"])

    async def _model_ready(self, call: Rpc) -> Message:
        try:
            router.choose(self._roster.index, call.request.name, call.request.version)
        except errors.RequestError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def _model_metadata(self, call: Rpc) -> Message:
        model = router.choose(self._roster.index, call.request.name, call.request.version).model
        versions = router.versions(self._roster.index.models[model.name].states)
        return kserve.model_metadata(model.name, versions, model.inputs, model.outputs)

    async def _model_infer(self, call: Rpc) -> bytes:
        request = asked.of_infer(call.request)
        return await self._forwarder.infer(request, call.data, Deadline(call.seconds, request.timeout_s))

    def _method(self, method: MethodDescriptor) -> grpc.RpcMethodHandler:
        parse = GetMessageClass(method.input_type).FromString
        answer = self._answers.get(method.name, _refuse(method.name))

        async def unary(data: bytes, context: ServicerContext) -> bytes:
            return await self._answered(method.name, parse, answer, data, context)

        async def stream(requests: object, context: ServicerContext) -> bytes:
            return await self._answered(method.name, parse, answer, b"", context)

        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)

    async def _answered(
        self, method: str, parse: Callable[[bytes], Message], answer: Handler, data: bytes, context: ServicerContext
    ) -> bytes:
        """Answers one call, turning errors into statuses and counting how it ended."""
        async with Outcome(method, context, self._roster, self._metrics) as call:
            request = parsed(parse, data)
            call.model = getattr(request, "model_name", "") or getattr(request, "name", "")
            reply = await answer(Rpc(request, data, context.time_remaining()))
            return reply if isinstance(reply, bytes) else reply.SerializeToString()


def parsed(parse: Callable[[bytes], Parsed], data: bytes) -> Parsed:
    """The message in the bytes; INVALID_ARGUMENT if there is none."""
    try:
        return parse(data)
    except DecodeError:
        raise errors.invalid(f"expected a protocol buffer message, got {len(data)} bytes that do not parse") from None


def _refuse(method: str) -> Handler:
    async def refuse(call: Rpc) -> Message:
        raise errors.unimplemented(f"{method} is not served by tiltserve yet")

    return refuse


def _version() -> str:
    try:
        return metadata.version("tiltserve")
    except metadata.PackageNotFoundError:
        return "unknown"
