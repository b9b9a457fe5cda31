"""tiltserve.v1.Distillation as a replica answers it: one gradient a call. Fronts take streams apart."""

import grpc
from grpc.aio import ServicerContext

from protos.tiltserve.v1 import distillation_pb2
from serving.replica.answering import Answering
from serving.replica.inference import encoded
from serving.replica.statuses import Begun, Statuses
from serving.wire import distillation
from serving.wire.aside import aside

SERVICE = distillation_pb2.DESCRIPTOR.services_by_name["Distillation"]


class Distillation:
    """The service of one replica."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def handler(self) -> grpc.GenericRpcHandler:
        """Its method, taking and giving bytes, since its messages may be large."""
        return grpc.method_handlers_generic_handler(
            SERVICE.full_name, {"Gradient": grpc.unary_unary_rpc_method_handler(self._gradient)}
        )

    async def _gradient(self, data: bytes, context: ServicerContext) -> bytes:
        """Decode, run, encode. If the caller leaves, its rows leave the engine."""
        self._answering.under_way.add(context)
        async with Statuses("Gradient", context, self._answering.watching) as record:
            with self._answering.counting() as counting:
                with record.phase("decode"):
                    wanted = await aside(len(data), lambda: distillation.read(data))
                    counting.asks(wanted.request.model, wanted.request.version)
                    record.calls_itself(wanted.request.id)
                    request, tensors = await aside(len(data), lambda: distillation.decoded(wanted))
                async with Begun(context):
                    answer = await self._answering.gradient(wanted, request, tensors, len(data), context, counting)
                    with record.phase("encode"):
                        return await encoded(
                            answer,
                            lambda: distillation.encoded(answer, wanted.request.id),
                            self._answering.connections.max_message,
                        )
