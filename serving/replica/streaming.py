"""ModelStreamInfer as a replica answers it, to a front and to a client that comes without one."""

import contextlib
import logging
from collections.abc import AsyncIterator

import grpc
from grpc.aio import ServicerContext

from serving.replica.answering import Answering
from serving.replica.inference import SERVICE, encoded
from serving.replica.statuses import UNEXPECTED, Statuses
from serving.wire import errors, kserve, received, streamed
from serving.wire.aside import aside
from serving.wire.inflight import InFlight, Sender

_log = logging.getLogger(__name__)
METHOD = "ModelStreamInfer"


class Streaming:
    """The method of one replica."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def handler(self) -> grpc.GenericRpcHandler:
        """The method, taking and giving bytes."""
        return grpc.method_handlers_generic_handler(
            SERVICE.full_name, {METHOD: grpc.stream_stream_rpc_method_handler(self._stream)}
        )

    async def _stream(self, messages: AsyncIterator[bytes], context: ServicerContext) -> None:
        self._answering.under_way.add(context)
        sender, in_flight, as_status = Sender(context), InFlight(), streamed.as_status(context)

        async def answer(data: bytes) -> None:
            came = received.Received("")
            try:
                came = await aside(len(data), lambda: received.infer(data))
                last = await self._answer(came, len(data), context)
            except Exception as error:
                if as_status:
                    raise
                if not isinstance(error, errors.RequestError):
                    _log.exception(METHOD)
                    error = errors.internal(UNEXPECTED)
                last = streamed.failed(error, came.model, came.id)
            let_go = in_flight.hold(len(last))
            try:
                await sender.write(last)
            finally:
                let_go()

        async with Statuses(METHOD, context):
            await in_flight.run(messages, self._answering.streams, answer)

    async def _answer(self, came: received.Received, size: int, context: ServicerContext) -> bytes:
        """The last response to a request of so many bytes."""
        request = await aside(kserve.effort(came), lambda: kserve.decode_request(came))
        streamed.check(request.parameters)
        with contextlib.suppress(Exception):  # said before, or the caller has left
            await context.send_initial_metadata((errors.BEGUN,))
        model, answer = await self._answering.answer(request, size, context)
        requested = [name for name in request.outputs if name in answer.outputs]
        said = {**answer.parameters, streamed.FINAL: True}
        response = await encoded(
            answer,
            lambda: kserve.encode_response(model.name, model.version, request.id, answer.outputs, said, requested),
        )
        return streamed.wrapped(response)
