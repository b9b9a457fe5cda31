"""Services whose requests are a name or two: longer ones are refused before they are parsed."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc.aio import ServicerContext

from serving.wire import errors
from serving.wire.aside import SMALL
from serving.wire.received import unreadable
from serving.wire.streams import Streams


def parsed(data: bytes, parse: Callable[[bytes], Message], longest: int = SMALL) -> Any:
    """The message in the bytes; INVALID_ARGUMENT if there is none, or they are more than `longest`."""
    if len(data) > longest:
        raise errors.invalid(f"expected a request of at most {longest} bytes, got {len(data)}")
    try:
        return parse(data)
    except DecodeError:
        raise unreadable(len(data)) from None


def handler(
    service: ServiceDescriptor, servicer: object, streams: Streams, longest: int = SMALL
) -> grpc.GenericRpcHandler:
    """The methods that `servicer` has, as generated code would register them; `longest` bounds a request's bytes."""
    methods = {
        method.name: _handler(method, getattr(servicer, method.name), streams, longest)
        for method in service.methods
        if hasattr(servicer, method.name)
    }
    return grpc.method_handlers_generic_handler(service.full_name, methods)


def _handler(
    method: MethodDescriptor, answer: Callable[..., Any], streams: Streams, longest: int
) -> grpc.RpcMethodHandler:
    parse = GetMessageClass(method.input_type).FromString

    async def unary(data: bytes, context: ServicerContext) -> bytes:
        try:
            request = parsed(data, parse, longest)
        except errors.RequestError as error:
            await errors.abort(context, error)
        reply: bytes = (await answer(request, context)).SerializeToString()
        return reply

    async def replies(data: bytes, context: ServicerContext) -> AsyncIterator[bytes]:
        try:
            request = parsed(data, parse, longest)
        except errors.RequestError as error:
            await errors.abort(context, error)
        async for reply in answer(request, context):
            yield reply.SerializeToString()

    async def stream(messages: AsyncIterator[bytes], context: ServicerContext) -> AsyncIterator[bytes]:
        async def requests() -> AsyncIterator[Message]:
            while True:
                try:
                    data = await streams.begun(messages, "another request")
                except StopAsyncIteration:
                    return
                yield parsed(data, parse, longest)

        try:
            async for reply in answer(requests(), context):
                yield reply.SerializeToString()
        except errors.RequestError as error:
            await errors.abort(context, error)

    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(stream)
    return (
        grpc.unary_stream_rpc_method_handler(replies)
        if method.server_streaming
        else grpc.unary_unary_rpc_method_handler(unary)
    )
