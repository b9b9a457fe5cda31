"""Connections between fronts and replicas."""

import asyncio

import grpc

from serving.wire import channels

PINGS = (
    ("grpc.keepalive_time_ms", 10),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)
"""Of a channel that pings every second, the most that gRPC sends; servers ask five seconds between two."""


async def asked(options: channels.Options) -> bytes:
    """The answer of a server with these options that takes five seconds, to a client that pings all the time."""

    async def slow(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await asyncio.sleep(5.0)
        return request

    server = grpc.aio.server(options=options)
    methods = {"Slow": grpc.unary_unary_rpc_method_handler(slow)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[*channels.MESSAGES, *PINGS]) as channel:
            answer: bytes = await channel.unary_unary("/test/Slow")(b"y", timeout=10)
            return answer
    finally:
        await server.stop(None)


def test_a_replica_bears_any_number_of_pings_and_a_public_server_does_not():
    """A replica that was busy answers a burst of them late; the front must not lose it for that."""

    async def both() -> tuple[bytes | BaseException, bytes | BaseException]:
        return await asyncio.gather(asked(channels.REPLICA), asked(channels.SERVER), return_exceptions=True)

    replica, public = asyncio.run(both())
    assert replica == b"y"
    assert isinstance(public, grpc.aio.AioRpcError)
    assert "Too many pings" in (public.details() or "")
