"""tiltserve.v1.Sampling as a replica answers it: the client scores candidates while its samples are drawn."""

from collections.abc import AsyncIterator
from functools import partial

import grpc
from grpc.aio import ServicerContext

from protos.tiltserve.v1 import sampling_pb2
from serving.models.dynamics import Dynamics
from serving.models.model import PlainModel
from serving.replica.answering import Answering
from serving.replica.inference import encoded, fitting
from serving.replica.statuses import Statuses
from serving.rewards.client import ClientDefinition
from serving.wire import errors, interactive, received
from serving.wire.aside import aside
from serving.wire.interactive import CLIENT

SERVICE = sampling_pb2.DESCRIPTOR.services_by_name["Sampling"]


class Sampling:
    """The service of one replica.

    Args:
        answer_s: how long a client may take to score one batch of candidates.
    """

    def __init__(self, answering: Answering, answer_s: float) -> None:
        self._answering, self._answer_s = answering, answer_s

    def handler(self) -> grpc.GenericRpcHandler:
        """Its methods, taking and giving bytes, since their messages may be large."""
        return grpc.method_handlers_generic_handler(
            SERVICE.full_name, {"SampleInteractive": grpc.stream_stream_rpc_method_handler(self._interact)}
        )

    async def _interact(self, messages: AsyncIterator[bytes], context: ServicerContext) -> None:
        """SampleInteractive: as ModelInfer, with the client as one more reward."""
        streams, longest = self._answering.streams, self._answering.connections.max_message
        async with Statuses("SampleInteractive", context, self._answering.watching) as record:
            first = await streams.first(messages)
            self._answering.under_way.add(context)
            with self._answering.counting() as counting:
                with record.phase("decode"):
                    came = await aside(len(first), lambda: received.sample(first))
                    counting.asks(came.model, came.version)
                    record.calls_itself(came.id)
                    request = await aside(len(first), lambda: interactive.decoded(came))
                await context.send_initial_metadata((errors.BEGUN,))

                async def write(reply: sampling_pb2.InteractiveReply) -> None:
                    await context.write(fitting(reply.SerializeToString(), longest))

                async def read() -> sampling_pb2.InteractiveRequest:
                    return interactive.answered(await streams.answered(messages, "the client's scores"))

                client = ClientDefinition(read, write, self._answer_s)
                asked = self._answering.model(request.model, request.version)
                if isinstance(asked, PlainModel | Dynamics):
                    got = "dynamics" if isinstance(asked, Dynamics) else "a plain network"
                    raise errors.invalid(f"model {request.model!r}: expected a sampler, got {got}")
                model, answer = await self._answering.answer(request, len(first), context, {CLIENT: client}, counting)
                served = model.name, model.version
                with record.phase("encode"):
                    reply = partial(interactive.last_reply, *served, request.id, answer)
                    last = await encoded(answer, lambda: reply().SerializeToString(), longest)
                await context.write(last)
