"""Every method of NVIDIA's clients, blocking and asyncio, against the server: one that has no test here fails."""

import asyncio
import os
import queue
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException

from serving.front.links import INFERENCE
from tests.serving.live import Live

Client: TypeAlias = Any  # tritonclient has no types

KEY = f"tiltserve-methods-{os.getpid()}"
FEW: dict[str, Any] = {"parameters": {"samples": 2, "steps": 2, "seed": 1}}

COMMON: dict[str, tuple[tuple[Any, ...], dict[str, Any], Callable[[Any], object]]] = {
    "is_server_live": ((), {}, bool),
    "is_server_ready": ((), {}, bool),
    "is_model_ready": (("rings",), {}, bool),
    "get_server_metadata": ((), {}, lambda told: told.name == "tiltserve"),
    "get_model_metadata": (("rings",), {}, lambda told: told.name == "rings"),
    "get_model_config": (("rings",), {}, lambda told: told.config.name == "rings"),
    "get_model_repository_index": ((), {}, lambda told: "rings" in {each.name for each in told.models}),
    "load_model": (("nan",), {}, lambda told: told is None),
    "unload_model": (("nan",), {}, lambda told: told is None),
    "get_inference_statistics": (("rings",), {}, lambda told: told.model_stats[0].name == "rings"),
    "update_trace_settings": (
        ("rings", {"trace_rate": "7"}),
        {},
        lambda told: told.settings["trace_rate"].value == ["7"],
    ),
    "get_trace_settings": (("rings",), {}, lambda told: told.settings["trace_mode"].value == ["opentelemetry"]),
    "update_log_settings": (({"log_error": True},), {}, lambda told: told.settings["log_error"].bool_param),
    "get_log_settings": ((), {}, lambda told: told.settings["log_error"].bool_param),
    "register_system_shared_memory": (("m", KEY, 64), {}, lambda told: told is None),
    "get_system_shared_memory_status": ((), {}, lambda told: told.regions is not None),
    "unregister_system_shared_memory": (("m",), {}, lambda told: told is None),
    "get_cuda_shared_memory_status": ((), {}, lambda told: not told.regions),
    "unregister_cuda_shared_memory": ((), {}, lambda told: told is None),
    "infer": (("rings", []), FEW, lambda result: result.as_numpy("samples").shape == (2, 2)),
}
"""Arguments, and whether the answer is right, of what both clients have."""
LOCAL = {"close", "register_plugin", "unregister_plugin", "plugin"}
"""What asks no server."""
REFUSED = {"register_cuda_shared_memory"}
STREAMS = {"start_stream", "async_stream_infer", "stop_stream", "async_infer"}


def methods(of: type) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_") and callable(getattr(of, name))}


def test_no_method_is_left_out():
    assert methods(triton.InferenceServerClient) == {*COMMON} | LOCAL | REFUSED | STREAMS
    assert methods(triton_aio.InferenceServerClient) == {*COMMON} | LOCAL | REFUSED | {"stream_infer"}


@pytest.fixture(scope="module", autouse=True)
def memory() -> Any:
    made = shm.create_shared_memory_region("m", KEY, 64)
    yield made
    shm.destroy_shared_memory_region(made)


@pytest.mark.parametrize("name", COMMON)
def test_blocking(client: Client, name: str):
    arguments, named, right = COMMON[name]
    assert right(getattr(client, name)(*arguments, **named))


@pytest.mark.parametrize("name", COMMON)
def test_asyncio(live: Live, name: str):
    arguments, named, right = COMMON[name]

    async def ask() -> object:
        async with triton_aio.InferenceServerClient(live.address) as client:
            if name == "register_system_shared_memory":
                await client.unregister_system_shared_memory()
            return await getattr(client, name)(*arguments, **named)

    assert right(asyncio.run(ask()))


def test_the_one_that_is_refused(client: Client, live: Live):
    async def ask() -> Awaitable[object]:
        async with triton_aio.InferenceServerClient(live.address) as other:
            return await other.register_cuda_shared_memory("g", b"aGFuZGxl", 0, 8)

    for call in (lambda: client.register_cuda_shared_memory("g", b"aGFuZGxl", 0, 8), lambda: asyncio.run(ask())):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_asynchronously(client: Client):
    answers: queue.Queue[Any] = queue.Queue()
    client.async_infer("rings", [], callback=lambda result, error: answers.put((result, error)), **FEW)
    result, error = answers.get(timeout=20)
    assert error is None
    assert result.as_numpy("samples").shape == (2, 2)


def test_on_a_stream(client: Client):
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number in range(3):
        client.async_stream_infer("rings", [], request_id=str(number), **FEW)
    client.stop_stream()
    ended = [answers.get(timeout=20) for _ in range(3)]
    assert [error for _, error in ended] == [None] * 3
    assert {result.get_response().id for result, _ in ended} == {"0", "1", "2"}


def test_on_a_stream_of_asyncio(live: Live):
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(3):
            yield {"model_name": "rings", "inputs": [], "request_id": str(number), **FEW}

    async def ask() -> set[str]:
        async with triton_aio.InferenceServerClient(live.address) as client:
            found = set()
            async for result, error in client.stream_infer(requests()):
                assert error is None
                found.add(result.get_response().id)
            return found

    assert asyncio.run(ask()) == {"0", "1", "2"}


def test_a_reflection_client_finds_and_describes_everything(live: Live):
    """Every service, method and message; the methods of KServe are those that NVIDIA's own stubs have."""
    with grpc.insecure_channel(live.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert {INFERENCE.full_name, "grpc.health.v1.Health", "tiltserve.v1.Fleet", "tiltserve.v1.Sampling"} <= services
        for name in services:
            file = database.FindFileContainingSymbol(name)
            (service,) = (each for each in file.service if f"{file.package}.{each.name}" == name)
            for method in service.method:
                for message in (method.input_type, method.output_type):
                    assert database.FindFileContainingSymbol(message.removeprefix(".")).message_type
            if name == INFERENCE.full_name:
                assert [each.name for each in service.method] == [each.name for each in INFERENCE.methods]
                assert len(service.method) == 20


@pytest.mark.parametrize("name", [each.name for each in INFERENCE.methods if not each.client_streaming])
def test_any_message_gets_a_line(live: Live, name: str):
    """An empty one, bytes that are no message, and a long one: an answer, or a status with one line; never a crash."""
    (method,) = (each for each in INFERENCE.methods if each.name == name)
    longest = b"\x0a" + b"\xff\xff\x07" + b"x" * 0x1FFFF  # a first field of 128 KiB
    with grpc.insecure_channel(live.address) as channel:
        call = channel.unary_unary(f"/{INFERENCE.full_name}/{name}")
        for data in (b"", b"\xff\xff\xff", longest):
            try:
                GetMessageClass(method.output_type).FromString(call(data, timeout=20))
                assert data == b""
            except grpc.RpcError as error:
                told: Any = error
                assert told.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), told.details()
                assert "\n" not in told.details()
