"""What becomes of a call when the server refuses, restarts or asks who is there: a server that does as it is told."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from typer.testing import CliRunner

import tiltserve
from deploy.cli import app
from protos.tiltserve.v1 import sampling_pb2, tensor_pb2
from tiltserve import AsyncClient, Client, TiltserveError, Time, Unavailable

MARKED, BEGUN_NOTHING = (("tiltserve-error", "1"),), (("tiltserve-error", "elsewhere"),)
Answer = Callable[[Any, grpc.ServicerContext], Any]


class Told:
    """Answers ModelInfer and SampleInteractive as it is told, and notes what came."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.headers: list[dict[str, Any]] = []
        self.refusals: list[tuple[grpc.StatusCode, str, Any]] = []
        self.port = 0
        self.start()

    def start(self) -> None:
        """On the port it had, if it had one."""
        self.server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        infer = grpc.unary_unary_rpc_method_handler(
            self._infer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
        )
        interact = grpc.stream_stream_rpc_method_handler(
            self._interact,
            sampling_pb2.InteractiveRequest.FromString,
            sampling_pb2.InteractiveReply.SerializeToString,
        )
        for service, name, handler in (
            ("inference.GRPCInferenceService", "ModelInfer", infer),
            ("tiltserve.v1.Sampling", "SampleInteractive", interact),
        ):
            self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {name: handler})])
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()

    def stop(self) -> None:
        self.server.stop(None).wait()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _refuse(self, context: grpc.ServicerContext) -> None:
        self.headers.append(dict(context.invocation_metadata()))
        if self.refusals:
            code, detail, trailing = self.refusals.pop(0)
            context.set_trailing_metadata(trailing)
            context.abort(code, detail)

    def _infer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        self.seeds.append(request.parameters["seed"].int64_param)
        self._refuse(context)
        if dict(context.invocation_metadata()).get("tiltserve-timing"):
            context.set_trailing_metadata((("server-timing", "queue;dur=0.250, network;dur=1.5;rows=20, total;dur=2"),))
        response = pb.ModelInferResponse(model_name=request.model_name)
        response.parameters["seed"].int64_param = self.seeds[-1]
        response.outputs.add(name="samples", datatype="FP32", shape=[1, 1])
        response.raw_output_contents.append(np.zeros(1, np.float32).tobytes())
        return response

    def _interact(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        self.seeds.append(next(requests).sample.parameters["seed"].integer)
        rows = tensor_pb2.Tensor(shape=[2, 1], data=np.zeros(2, np.float32).tobytes())
        if len(self.seeds) > 1:
            yield sampling_pb2.InteractiveReply(candidates=sampling_pb2.Candidates(batch=1, tensor=rows))
            next(requests)
        self._refuse(context)
        sample = tensor_pb2.Tensor(shape=[1, 1], data=bytes(4))
        yield sampling_pb2.InteractiveReply(samples=sampling_pb2.SampleReply(outputs={"samples": sample}))


@pytest.fixture
def told() -> Iterator[Told]:
    server = Told()
    yield server
    server.stop()


def of(name: str) -> type[TiltserveError]:
    """The exception of a status."""
    kinds = [each for each in vars(tiltserve).values() if isinstance(each, type) and issubclass(each, TiltserveError)]
    return next((each for each in kinds if each.status == name), TiltserveError)


@pytest.mark.parametrize("code", [each for each in grpc.StatusCode if each is not grpc.StatusCode.OK])
def test_every_status_is_an_exception(told: Told, code: grpc.StatusCode):
    told.refusals = 2 * [(code, "expected a, got\nb", MARKED)]
    with Client(told.address) as client, pytest.raises(of(code.name)) as caught:
        client.sample("m")
    assert (caught.value.status, caught.value.message) == (code.name, "expected a, got b")
    assert str(caught.value) == f"{code.name}: expected a, got b"

    async def ask() -> None:
        async with AsyncClient(told.address) as client:
            with pytest.raises(of(code.name)) as caught:
                await client.sample("m")
            assert (caught.value.status, caught.value.message) == (code.name, "expected a, got b")

    asyncio.run(ask())
    assert len(told.seeds) == 2  # neither was tried again


@pytest.mark.parametrize("trailing", [(), BEGUN_NOTHING], ids=["the transport", "a server that began nothing"])
def test_what_was_not_begun_is_tried_again_with_the_same_seed(told: Told, trailing: Any):
    refusal = grpc.StatusCode.UNAVAILABLE, "the server is stopping", trailing
    told.refusals = [refusal, refusal]
    with Client(told.address) as client:
        assert client.sample("m").seed == told.seeds[0]
    assert len(told.seeds) == 3
    assert len({*told.seeds}) == 1
    told.refusals = [refusal] * 3
    with Client(told.address, retries=1) as client, pytest.raises(Unavailable):
        client.sample("m")
    assert len(told.refusals) == 1
    told.refusals = [refusal] * 3
    start = time.monotonic()
    with Client(told.address, retries=100, timeout=0.1) as client, pytest.raises(Unavailable, match="stopping"):
        client.sample("m")
    assert time.monotonic() - start < 1


@contextlib.contextmanager
def far(address: str, seconds: float) -> Iterator[str]:
    """An address whose connections reach the server after so many seconds, as over a long line."""
    host, _, port = address.rpartition(":")

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def connect() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                time.sleep(seconds)
                away = socket.create_connection((host, int(port)))
                for pair in ((near, away), (away, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=connect, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_a_server_that_is_far_away_is_reached_at_the_first_try(told: Told):
    """A handshake that takes longer than the pause between two tries is no failure."""
    with far(told.address, 0.5) as address, Client(address, retries=0, timeout=20) as client:
        client.sample("any", seed=1)


def test_a_server_that_is_restarted_is_found_again(told: Told):
    with Client(told.address, retries=8) as client:
        client.sample("m")
        told.stop()
        starting = threading.Timer(0.7, told.start)
        starting.start()
        drawn = client.sample("m")
        starting.join()
        assert told.seeds[-1] == drawn.seed
        assert client.sample("m", seed=3).seed == 3

    async def ask() -> None:
        async with AsyncClient(told.address, retries=8) as client:
            await client.sample("m")
            told.stop()
            starting = threading.Timer(0.7, told.start)
            starting.start()
            assert (await client.sample("m", seed=5)).seed == 5
            starting.join()

    asyncio.run(ask())


def test_a_function_is_not_asked_twice(told: Told):
    refusal = grpc.StatusCode.UNAVAILABLE, "its replica was lost", ()
    told.refusals = [refusal, refusal]
    asked: list[int] = []

    def score(x: Any) -> Any:
        asked.append(len(x))
        return np.zeros(len(x))

    with Client(told.address) as client, pytest.raises(Unavailable, match="lost"):
        client.sample("m", score=score)
    assert asked == [2]
    assert len(told.seeds) == 2  # it was begun again once: before the function was asked
    assert len({*told.seeds}) == 1


def test_a_token_goes_with_every_call_and_into_no_message(told: Told):
    told.refusals = [(grpc.StatusCode.UNAUTHENTICATED, "expected a token that is known", MARKED)]
    with Client(told.address, token="secret") as client:
        with pytest.raises(tiltserve.Unauthenticated) as caught:
            client.sample("m")
        assert "secret" not in str(caught.value) + repr(client) + repr(caught.value)
        client.sample("m", score=lambda x: np.zeros(len(x)))
    assert [each["authorization"] for each in told.headers] == 2 * ["Bearer secret"]


def test_times_are_told_where_they_are_asked_for(told: Told):
    with Client(told.address) as client:
        assert client.sample("m").times == {}
        expected = {"queue": Time(0.25), "network": Time(1.5, 20), "total": Time(2.0)}
        assert client.sample("m", timing=True).times == expected

    async def ask() -> None:
        async with AsyncClient(told.address) as client:
            assert (await client.sample("m", timing=True)).times == expected

    asyncio.run(ask())
    result = CliRunner().invoke(app, ["trace", "m", "--address", told.address, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["times"]["network"] == {"ms": 1.5, "rows": 20}
    shown = CliRunner().invoke(app, ["trace", "m", "--address", told.address]).stdout
    assert [line.split()[0] for line in shown.splitlines()] == ["part", "queue", "network", "total", "client"]


def test_a_slow_answer_is_late(told: Told, monkeypatch: pytest.MonkeyPatch):
    slow = threading.Event()
    monkeypatch.setattr(told, "_refuse", lambda context: slow.wait(5))
    start = time.monotonic()
    with Client(told.address, timeout=0.2) as client, pytest.raises(tiltserve.DeadlineExceeded):
        client.sample("m")
    slow.set()
    assert time.monotonic() - start < 3
