"""Connections between fronts and replicas."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from serving.wire import channels
from serving.wire.channels import Connections
from tiltserve.address import Address

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
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[*channels.messages(), *PINGS]) as channel:
            answer: bytes = await channel.unary_unary("/test/Slow")(b"y", timeout=10)
            return answer
    finally:
        await server.stop(None)


def test_a_replica_bears_any_number_of_pings_and_a_public_server_does_not():
    """A replica that was busy answers a burst of them late; the front must not lose it for that."""

    async def both() -> tuple[bytes | BaseException, bytes | BaseException]:
        return await asyncio.gather(
            asked(Connections().replica()), asked(Connections().front()), return_exceptions=True
        )

    replica, public = asyncio.run(both())
    assert replica == b"y"
    assert isinstance(public, grpc.aio.AioRpcError)
    assert "Too many pings" in (public.details() or "")


def test_a_replica_takes_in_any_number_of_calls_that_come_at_once():
    """gRPC would cancel some of those that wait while its event loop is busy."""

    async def burst() -> set[bytes]:
        async def answer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            time.sleep(0.001)  # noqa: ASYNC251 - the loop is what is busy
            return request

        server = grpc.aio.server(options=channels.Connections().replica())
        methods = {"Answer": grpc.unary_unary_rpc_method_handler(answer)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test", methods)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channels.CHANNEL) as channel:
                call = channel.unary_unary("/test/Answer")
                return set(await asyncio.gather(*(call(b"y", timeout=60) for _ in range(2000))))
        finally:
            await server.stop(None)

    assert asyncio.run(burst()) == {b"y"}


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What a proxy is asked for, which every variable names and which answers nothing."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            while True:
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return
                with caller:
                    asked.append(caller.recv(1024).split(b"\r\n")[0])

        thread = threading.Thread(target=listen)
        thread.start()
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{listener.getsockname()[1]}")
        for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield asked
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


SERVICE = channels.to_service("test", attempts=2, first_ms=10, longest_ms=20)


@pytest.mark.parametrize("options", [channels.CHANNEL, SERVICE, Address.of("127.0.0.1:1").options])
def test_no_channel_of_ours_asks_a_proxy_for_this_machine(proxy: list[bytes], options: Any):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        with grpc.insecure_channel(address, options=options) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/test/Any")(b"", timeout=2)
    assert proxy == []


@pytest.mark.parametrize(
    ("address", "direct"),
    [
        ("127.0.0.1:8001", True),
        ("127.8.9.1:8001", True),
        ("localhost:8001", True),
        ("[::1]:8001", True),
        ("10.1.2.3:8001", True),
        ("192.168.0.9:8001", True),
        ("[fd00::9]:8001", True),
        ("100.64.3.1:8001", True),
        ("tiltserve:8001", True),
        ("8.8.8.8:8001", False),
        ("[2001:4860:4860::8888]:8001", False),
        ("models.example.com:8001", False),
    ],
)
def test_a_client_asks_a_proxy_for_far_servers_only(address: str, direct: bool):
    options = dict(Address.of(address).options)
    assert (options.get("grpc.enable_http_proxy", 1) == 0) == direct
    assert options["grpc.max_receive_message_length"] == channels.LONGEST_MESSAGE


def test_a_far_server_is_reached_through_a_proxy(proxy: list[bytes]):
    address = "models.example.com:8001"
    with grpc.insecure_channel(address, options=Address.of(address).options) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/test/Any")(b"", timeout=2)
    assert set(proxy) == {b"CONNECT models.example.com:8001 HTTP/1.1"}
