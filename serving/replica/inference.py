"""KServe v2 as a replica answers it, to a front and to a client that comes without one."""

from collections.abc import Callable

import grpc
from grpc.aio import ServicerContext
from tritonclient.grpc import service_pb2 as pb

from serving.engine.metrics import ReplicaMetrics
from serving.models.pipeline import AnyModel
from serving.replica import account
from serving.replica.answering import Answering
from serving.replica.counting import Counting
from serving.replica.statistics import statistics
from serving.replica.statuses import Begun, Statuses
from serving.watching.record import ONE, Record, current
from serving.wire import errors, kserve, received, small
from serving.wire.answer import Answer
from serving.wire.aside import aside
from serving.wire.kserve import InferRequest

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]


class Inference:
    """The service `inference.GRPCInferenceService` of one replica."""

    def __init__(self, answering: Answering, metrics: ReplicaMetrics) -> None:
        self._answering, self._metrics = answering, metrics

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """Its methods; ModelInfer takes and gives bytes, since its messages may be large."""
        large = {"ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer)}
        return [
            grpc.method_handlers_generic_handler(SERVICE.full_name, large),
            small.handler(SERVICE, self, self._answering.streams),
        ]

    async def ServerLive(self, request: pb.ServerLiveRequest, context: ServicerContext) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: ServicerContext) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._answering.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: ServicerContext) -> pb.ModelReadyResponse:
        state = self._answering.listed(request.name, request.version)
        return pb.ModelReadyResponse(ready=state is not None and state.state == "READY")

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: ServicerContext
    ) -> pb.ModelMetadataResponse:
        async with Statuses("ModelMetadata", context, self._answering.watching):
            state = self._answering.listed(request.name, request.version)
            if state is None:
                raise errors.not_found(f"unknown model {request.name!r} of version {request.version or 'any'!r}")
            return kserve.model_metadata(state.name, [state.version], state.inputs, state.outputs)

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: ServicerContext
    ) -> pb.ModelStatisticsResponse:
        async with Statuses("ModelStatistics", context):
            wanted = [each for each in self._answering.served if request.name in ("", each[0])]
            wanted = [each for each in wanted if request.version in ("", each[1])]
            if request.name and not wanted:
                raise errors.not_found(f"unknown model {request.name!r} of version {request.version or 'any'!r}")
            return statistics(self._metrics, wanted)

    async def _infer(self, data: bytes, context: ServicerContext) -> bytes:
        """ModelInfer: decode, run, encode. If the caller leaves, its rows leave the engine."""
        self._answering.under_way.add(context)
        async with Statuses("ModelInfer", context, self._answering.watching) as record:
            with self._answering.counting() as counting:
                return await self._answer(data, context, counting, record)

    async def _answer(self, data: bytes, context: ServicerContext, counting: Counting, record: Record) -> bytes:
        with record.phase("decode"):
            came = await aside(len(data), lambda: received.infer(data))
            counting.asks(came.model, came.version)
            record.calls_itself(came.id)
            request = await aside(kserve.effort(came), lambda: kserve.decode_request(came))
        async with Begun(context):
            model, answer = await self._answering.answer(request, len(data), context, counting=counting)
            with record.phase("encode"):
                reply = await response_of(request, model, answer, self._answering.connections.max_message)
            return timed(reply)


async def response_of(request: InferRequest, model: AnyModel, answer: Answer, longest: int) -> bytes:
    """The serialised ModelInferResponse that holds an answer, with the outputs that were asked for; as `encoded`."""
    requested = [name for name in request.outputs if name in answer.outputs]
    return await encoded(
        answer,
        lambda: kserve.encode_response(
            model.name, model.version, request.id, answer.outputs, answer.parameters, requested
        ),
        longest,
    )


def timed(response: bytes) -> bytes:
    """A serialised ModelInferResponse with the current request's times, if they were asked for."""
    record = current()
    return response if record is None or record.asked != ONE else kserve.with_times(response, account.line(record))


async def encoded(answer: Answer, reply: Callable[[], bytes], longest: int) -> bytes:
    """The serialised reply that holds an answer, made aside where it is large; raises as `fitting`."""
    return await aside(answer.nbytes, lambda: fitting(reply(), longest))


def fitting(reply: bytes, longest: int) -> bytes:
    """A serialised reply; RESOURCE_EXHAUSTED if it is longer than a message may be, which was not known beforehand."""
    if len(reply) > longest:
        raise errors.exhausted(f"expected an answer of at most {longest} bytes, got {len(reply)}")
    return reply
