"""One client for each way to ask: KServe's gRPC protocol in three dialects, and HTTP."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import aiohttp
import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from benchmarks._peers.trace import Request

EVENT = (1, 28, 28)
Protocol = Literal["tiltserve", "kserve", "triton", "http"]
Code = Literal["ok", "late", "refused", "failed"]


@dataclass(frozen=True)
class Target:
    """Where a system listens (host:port), and what it understands."""

    protocol: Protocol
    address: str


@dataclass(frozen=True)
class Reply:
    """How a request ended; `samples` [n, 1, 28, 28] if it went well, else `text` says why not."""

    code: Code
    text: str = ""
    samples: np.ndarray[Any, np.dtype[np.float32]] | None = None


class Client:
    """An open channel to one target, for use in `async with`."""

    def __init__(self, target: Target) -> None:
        self._target = target

    async def __aenter__(self) -> Self:
        self._session = self._channel = None
        if self._target.protocol == "http":
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
            self._ask: Callable[[Request], Awaitable[Reply]] = self._http
        else:
            self._channel = grpc.aio.insecure_channel(self._target.address)
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
            self._ask = self._grpc
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
        if self._channel is not None:
            await self._channel.close()

    async def ask(self, request: Request) -> Reply:
        """Send a request and check its answer; never raises for what the server did."""
        start = time.perf_counter()
        reply = await self._ask(request)
        if reply.code == "failed" and time.perf_counter() - start >= request.timeout:
            return Reply("late", reply.text)  # whatever a server calls it when it drops what nobody waits for
        if reply.samples is None:
            return reply
        if reply.samples.shape != (request.samples, *EVENT) or not np.isfinite(reply.samples).all():
            return Reply("failed", f"expected {request.samples} finite samples, got shape {reply.samples.shape}")
        return reply

    async def _http(self, request: Request) -> Reply:
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=request.timeout)
        url = f"http://{self._target.address}/predict"
        try:
            async with self._session.post(url, json=_fields(request), timeout=timeout) as response:
                content = await response.read()
        except TimeoutError:
            return Reply("late")
        except aiohttp.ClientError as error:
            return Reply("failed", repr(error))
        if response.status != 200:
            codes: dict[int, Code] = {504: "late", 429: "refused", 503: "refused"}
            return Reply(codes.get(response.status, "failed"), f"{response.status} {content[:200]!r}")
        return Reply("ok", samples=_images(content))

    async def _grpc(self, request: Request) -> Reply:
        try:
            response = await self._stub.ModelInfer(_message(self._target.protocol, request), timeout=request.timeout)
        except grpc.aio.AioRpcError as error:
            codes: dict[grpc.StatusCode, Code] = {
                grpc.StatusCode.DEADLINE_EXCEEDED: "late",
                grpc.StatusCode.RESOURCE_EXHAUSTED: "refused",
            }
            return Reply(codes.get(error.code(), "failed"), f"{error.code().name} {error.details()}")
        return Reply("ok", samples=_images(response.raw_output_contents[0]))


def _fields(request: Request) -> dict[str, int]:
    deadline = int((time.time() + request.timeout) * 1e6)
    return {"samples": request.samples, "steps": request.steps, "seed": request.seed, "deadline_us": deadline}


def _message(protocol: Protocol, request: Request) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="digits")
    fields = _fields(request)
    if protocol == "triton":
        n = fields.pop("samples")
        for name, value in fields.items():
            message.inputs.add(name=name, datatype="INT64", shape=[n, 1])
            message.raw_input_contents.append(np.full((n, 1), value, np.int64).tobytes())
        message.parameters["timeout"].int64_param = int(request.timeout * 1e6)
        return message
    if protocol == "tiltserve":
        del fields["deadline_us"]  # it reads the call's own
        message.parameters["solver"].string_param = "dpmpp_2m"
    for name, value in fields.items():
        message.parameters[name].int64_param = value
    return message


def _images(content: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    values = np.frombuffer(content, np.float32)
    whole = values.size - values.size % int(np.prod(EVENT))
    return values[:whole].reshape(-1, *EVENT)
