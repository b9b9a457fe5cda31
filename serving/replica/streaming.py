"""ModelStreamInfer as a replica answers it, to a front and to a client that comes without one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
from grpc.aio import ServicerContext

from serving.backends import Array
from serving.models.pipeline import AnyModel
from serving.replica.answering import Answering
from serving.replica.counting import Counting
from serving.replica.inference import SERVICE, response_of, timed
from serving.replica.statuses import UNEXPECTED, Recorded
from serving.requests.dynamics.chunks import Chunk
from serving.requests.previews import Part, Preview
from serving.requests.trajectory import Pair, Room
from serving.watching.record import phase
from serving.wire import errors, kserve, received, streamed
from serving.wire.answer import Answer
from serving.wire.aside import aside
from serving.wire.inflight import InFlight, Sender
from serving.wire.kserve import InferRequest
from serving.wire.waiting import Waiting

METHOD = "ModelStreamInfer"


class Streaming:
    """The method of one replica.

    Args:
        reading_s: how long a client may read nothing of a path, none of which is dropped.
    """

    def __init__(self, answering: Answering, reading_s: float) -> None:
        self._answering, self._reading_s = answering, reading_s

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
                async with Recorded(METHOD, context, self._answering.watching) as record:
                    with self._answering.counting() as counting:
                        came = await aside(len(data), lambda: received.infer(data))
                        counting.asks(came.model, came.version)
                        record.calls_itself(came.id, of_many=not as_status)  # a front asks one request a stream
                        last = await self._answer(came, len(data), context, sender, counting)
            except Exception as error:
                known = error if isinstance(error, errors.RequestError) else errors.internal(UNEXPECTED)
                if as_status:
                    raise known from None
                last = streamed.failed(known, came.model, came.id)
            await in_flight.write(sender, last)

        await in_flight.serve(messages, self._answering.streams, answer, context)

    async def _answer(
        self, came: received.Received, size: int, context: ServicerContext, sender: Sender, counting: Counting
    ) -> bytes:
        """The last response to a request of so many bytes, once those before it are sent."""
        with phase("decode"):
            request = await aside(kserve.effort(came), lambda: kserve.decode_request(came))
        streamed.check(request.parameters)
        with contextlib.suppress(Exception):  # said before, or the caller has left
            await context.send_initial_metadata((errors.BEGUN,))
        waiting, loop = Waiting[tuple[AnyModel, Part]](sender), asyncio.get_running_loop()

        async def read() -> list[Array]:
            """Until some of what waits is sent."""
            try:
                async with asyncio.timeout(self._reading_s):
                    await waiting.room()
            except TimeoutError:
                raise errors.deadline(
                    f"stream: expected a client that reads within {self._reading_s:g} s, got one that does not"
                ) from None
            return []

        def deliver(model: AnyModel, part: Part) -> Room | None:
            waiting.put((model, part), part.nbytes, preview=isinstance(part, Preview))
            if not isinstance(part, Pair | Chunk) or not waiting.crowded:
                return None
            return lambda: asyncio.run_coroutine_threadsafe(read(), loop)

        async def before(taken: tuple[AnyModel, Part]) -> bytes:
            model, part = taken
            answer = part if isinstance(part, Answer) else await aside(part.nbytes, part.answer)
            # states say of which trajectory and time they are, whatever outputs were asked for beside them
            wanted = replace(request, outputs=[]) if isinstance(part, Chunk) else request
            return streamed.wrapped(await self._response(wanted, model, answer, final=False))

        answering = self._answering.answer(request, size, context, counting=counting, deliver=deliver)
        if streamed.at_once(request.parameters):
            return await self._last(request, *await answering)
        answered = await waiting.send(asyncio.ensure_future(answering), before)
        return await self._last(request, *answered)

    async def _last(self, request: InferRequest, model: AnyModel, answer: Answer) -> bytes:
        """The last response, which has the request's times if they were asked for."""
        with phase("encode"):
            response = await self._response(request, model, answer, final=True)
        return streamed.wrapped(timed(response))

    async def _response(self, request: InferRequest, model: AnyModel, answer: Answer, *, final: bool) -> bytes:
        """A serialised ModelInferResponse."""
        told = replace(answer, parameters={**answer.parameters, streamed.FINAL: final})
        return await response_of(request, model, told, self._answering.connections.max_message)
