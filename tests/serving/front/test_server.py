"""A real front before real gRPC replicas (which do arithmetic), asked by real clients."""

import asyncio
import contextlib
import itertools
import socket
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from protos.tiltserve.v1 import fleet_pb2, fleet_pb2_grpc
from serving.engine.metrics import ReplicaMetrics
from serving.fleet.directory import Directory, Listing, LocalDirectory, ModelState, ReplicaState
from serving.front import roster
from serving.front.links import INFERENCE, SAMPLING, Links
from serving.front.server import Front
from serving.front.unix import PortError
from serving.watching.spans import Spans
from serving.watching.watching import Watching
from serving.wire import channels, errors, kserve, received
from serving.wire.rows import Draws
from serving.wire.tensors import TensorSpec


def sampler(fingerprint: str = "f", state="READY") -> ModelState:
    spec = TensorSpec("x", "FP32", (-1,))
    return ModelState("adder", "1", "sampler", state, "", fingerprint, (spec,), (spec,), draws=Draws())


class Replica(service_pb2_grpc.GRPCInferenceServiceServicer, fleet_pb2_grpc.ReplicaInternalServicer):
    """Answers y = 2 x + seed; while `gate` is shut it keeps requests waiting."""

    def __init__(self, name: str, *models: ModelState) -> None:
        self.name, self.models = name, models or (sampler(),)
        self.seen: list[kserve.InferRequest] = []
        self.arrived, self.gate, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.cut = ""
        self.metrics = ReplicaMetrics()
        self.draining, self.backlog, self.beat, self.begins = False, 0, 0, True

    async def start(self) -> None:
        self.server = grpc.aio.server(options=channels.Connections().replica())
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self.server)
        fleet_pb2_grpc.add_ReplicaInternalServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        await self.server.start()

    def state(self) -> ReplicaState:
        self.beat += 1
        return ReplicaState(
            self.name, self.address, 1, self.models, self.backlog, draining=self.draining, beat=self.beat
        )

    async def ModelInfer(self, request, context):
        decoded = kserve.decode_request(received.infer(request.SerializeToString()))
        self.seen.append(decoded)
        self.arrived.set()
        if self.begins:
            await context.send_initial_metadata((errors.BEGUN,))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.cut:
            await context.abort(grpc.StatusCode.UNAVAILABLE, self.cut)
        if isinstance(self.error, errors.RequestError):
            await errors.abort(context, self.error)
        if self.error is not None:
            raise self.error
        seed = decoded.parameters.get("seed", 0)
        y = 2 * decoded.inputs["x"] + np.float32(seed % 1000)
        self.metrics.rows_total.labels(decoded.model, "network").inc(len(y))
        reply = kserve.encode_response(decoded.model, "1", decoded.id, {"y": y}, {"seed": seed}, decoded.outputs)
        return pb.ModelInferResponse.FromString(reply)

    async def Metrics(self, request, context):
        return fleet_pb2.MetricsReply(text=self.metrics.text())


class System:
    """A front, its directory, and replicas that beat ten times a second for as long as they run."""

    def __init__(self, front: Front, directory: Directory) -> None:
        self.front, self.directory = front, directory
        self.beats: dict[str, asyncio.Task[None]] = {}
        self.client = triton_aio.InferenceServerClient(front.grpc_address)
        self.channel = grpc.aio.insecure_channel(front.grpc_address)

    async def join(self, *replicas: Replica) -> None:
        for replica in replicas:
            await replica.start()
            self.beats[replica.name] = asyncio.create_task(self._beat(replica))
        await until(lambda: {each.name for each in replicas} <= {each.id for each in self.front._roster.index.replicas})

    async def kill(self, replica: Replica) -> None:
        self.beats.pop(replica.name).cancel()
        await replica.server.stop(None)

    async def _beat(self, replica: Replica) -> None:
        while True:
            self.directory.beat(replica.state())
            await asyncio.sleep(0.1)

    async def infer(self, x=(1.0, 2.0), model="adder", parameters=None, **how) -> triton.InferResult:
        tensor = triton.InferInput("x", [len(x)], "FP32")
        tensor.set_data_from_numpy(np.array(x, np.float32))
        return await self.client.infer(model, [tensor], parameters=parameters, **how)

    async def refusal(self, **how) -> tuple[str, str]:
        with pytest.raises(InferenceServerException) as caught:
            await self.infer(**how)
        return caught.value.status().removeprefix("StatusCode."), caught.value.message()


@contextlib.asynccontextmanager
async def system(*replicas: Replica, **settings) -> AsyncIterator[System]:
    directory = Directory(lease_s=1.0)
    front = Front(LocalDirectory(directory), **({"poll_s": 0.05, "drain_s": 0.2} | settings))
    await front.start()
    made = System(front, directory)
    try:
        await made.join(*replicas)
        yield made
    finally:
        for beat in made.beats.values():
            beat.cancel()
        await made.client.close()
        await made.channel.close()
        await front.stop()
        for replica in replicas:
            await replica.server.stop(None)


async def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def test_a_request_is_forwarded_and_its_answer_comes_back():
    async def body():
        replica = Replica("a")
        async with system(replica) as live:
            result = await live.infer(parameters={"seed": 5, "steps": 3}, request_id="r1")
            np.testing.assert_array_equal(result.as_numpy("y"), np.array([7, 9], np.float32))
            assert (result.get_response().id, result.get_response().parameters["seed"].int64_param) == ("r1", 5)
            assert replica.seen[0].parameters == {"seed": 5, "steps": 3}

    asyncio.run(body())


def test_a_front_waits_for_the_models_that_it_is_told_of():
    """At first: one of them that goes away later leaves it ready for the others."""

    async def body():
        async with system(Replica("a", sampler()), ready_models=["adder", "other"]) as it:

            async def status(service: str) -> int:
                asked = health_pb2.HealthCheckRequest(service=service)
                return (await health_pb2_grpc.HealthStub(it.channel).Check(asked)).status

            await until(lambda: bool(it.front._roster.index.models))
            assert await status("") == health_pb2.HealthCheckResponse.NOT_SERVING
            assert it.front.fault == "no replica takes requests for other"
            assert await status("adder") == health_pb2.HealthCheckResponse.SERVING
            second = Replica("b", replace(sampler(), name="other"))
            await it.join(second)
            await until(lambda: it.front.serving)
            await it.kill(second)
            await until(lambda: len(it.front._roster.index.replicas) == 1)
            assert it.front.serving
            assert await status("") == health_pb2.HealthCheckResponse.SERVING

    asyncio.run(body())


def test_the_blocking_client_works_too():
    async def body():
        async with system(Replica("a")) as live:

            def ask() -> np.ndarray:
                with triton.InferenceServerClient(live.front.grpc_address) as client:
                    assert client.is_server_live()
                    assert client.is_server_ready()
                    assert client.is_model_ready("adder")
                    assert not client.is_model_ready("nothing")
                    assert client.get_server_metadata().name == "tiltserve"
                    metadata = client.get_model_metadata("adder")
                    assert (metadata.name, list(metadata.versions)) == ("adder", ["1"])
                    assert metadata.inputs[0].datatype == "FP32"
                    tensor = triton.InferInput("x", [1], "FP32")
                    tensor.set_data_from_numpy(np.array([4], np.float32))
                    return client.infer("adder", [tensor], parameters={"seed": 0}).as_numpy("y")

            assert await asyncio.to_thread(ask) == [8]

    asyncio.run(body())


def test_seeds_are_drawn_for_samplers_only():
    async def body():
        network = ModelState("adder.network", "1", "network", "READY", fingerprint="n")
        replica = Replica("a", sampler(), network)
        async with system(replica) as live:
            await live.infer()
            await live.infer()
            await live.infer(model="adder.network")
            first, second, third = (request.parameters.get("seed") for request in replica.seen)
            assert isinstance(first, int)
            assert 0 <= first < 2**63
            assert first != second
            assert third is None

    asyncio.run(body())


def test_a_lost_replica_is_replaced_with_the_same_seed():
    async def body():
        first, other, equal = Replica("a"), Replica("b", sampler("g")), Replica("c")
        first.gate.clear()
        async with system(first) as live:
            asked = asyncio.create_task(live.infer())
            await first.arrived.wait()
            await live.join(other)  # another fingerprint: not good enough
            await live.kill(first)
            await asyncio.sleep(0.2)
            assert not asked.done()
            await live.join(equal)
            result = await asked
            assert other.seen == []
            assert first.seen[0].parameters == equal.seen[0].parameters
            seed = equal.seen[0].parameters["seed"]
            assert result.get_response().parameters["seed"].int64_param == seed
            np.testing.assert_array_equal(first.seen[0].inputs["x"], equal.seen[0].inputs["x"])
            for replica in (other, equal):
                await live.kill(replica)

    asyncio.run(body())


def test_a_replayed_request_shows_both_tries():
    exporter = InMemorySpanExporter()
    watching = Watching(access_log=True, spans=Spans(SimpleSpanProcessor(exporter)))

    async def body():
        first, equal = Replica("a"), Replica("b")
        first.gate.clear()
        async with system(first, watching=watching) as live:
            asked = asyncio.create_task(live.infer())
            await first.arrived.wait()
            await live.join(equal)
            await live.kill(first)
            await asked
            await live.kill(equal)

    asyncio.run(body())
    spans: list[Any] = sorted(exporter.get_finished_spans(), key=lambda each: each.start_time)
    request = next(each for each in spans if each.kind is SpanKind.SERVER)
    tries = [each for each in spans if each.name == "forward"]
    assert [each.attributes["tiltserve.replica"] for each in tries] == ["a", "b"]
    assert [each.attributes["tiltserve.attempt"] for each in tries] == [1, 2]
    assert [each.status.description for each in tries] == ["UNAVAILABLE", None]
    assert all(each.parent.span_id == request.context.span_id for each in tries)
    assert request.attributes["tiltserve.tries"] == 2
    assert request.attributes["tiltserve.status"] == "OK"


def test_a_request_that_kills_replicas_stops_after_two_replays():
    async def body():
        replicas = [Replica(name) for name in "abcd"]
        for replica in replicas:
            replica.gate.clear()
        async with system(*replicas) as live:
            asked = asyncio.create_task(live.refusal())
            for _ in range(3):
                await until(lambda: any(replica.arrived.is_set() for replica in replicas))
                victim = next(replica for replica in replicas if replica.arrived.is_set())
                victim.arrived.clear()
                await live.kill(victim)
            code, text = await asked
            assert code == "UNAVAILABLE"
            assert "lost 3 replicas" in text
            assert len([replica for replica in replicas if replica.seen]) == 3

    asyncio.run(body())


def test_a_request_with_which_no_replica_begins_is_sent_on_once():
    """It may be what they die of: one more is lost at most."""

    async def body():
        replicas = [Replica(name) for name in "abcd"]
        for replica in replicas:
            replica.begins = False
            replica.gate.clear()
        async with system(*replicas) as live:
            asked = asyncio.create_task(live.refusal())
            for _ in range(2):
                await until(lambda: any(replica.arrived.is_set() for replica in replicas))
                victim = next(replica for replica in replicas if replica.arrived.is_set())
                victim.arrived.clear()
                await live.kill(victim)
            code, text = await asked
            assert (code, text) == (
                "UNAVAILABLE",
                "model 'adder': 2 replicas ended without having begun with the request",
            )
            assert len([replica for replica in replicas if replica.seen]) == 2

    asyncio.run(body())


@pytest.mark.parametrize("begins", [False, True])
def test_a_request_during_which_a_replica_fell_silent(begins: bool, monkeypatch: pytest.MonkeyPatch):
    """It is sent on only if the replica had begun with it: else it may be what silenced it."""
    monkeypatch.setattr(roster, "SILENT_S", 0.4)

    async def body():
        silent, other = Replica("a"), Replica("b")
        silent.begins = begins
        silent.gate.clear()
        async with system(silent) as live:
            asked = asyncio.create_task(live.infer(parameters={"seed": 1}))
            await silent.arrived.wait()
            await live.join(other)
            live.beats.pop("a").cancel()
            await until(lambda: live.front._roster.silent("a"))
            await silent.server.stop(None)
            if begins:
                assert (await asked).as_numpy("y").tolist() == [3, 5]
            else:
                with pytest.raises(InferenceServerException, match="its replica ended without having begun"):
                    await asked
            assert len(other.seen) == begins
            await live.kill(other)

    asyncio.run(body())


def test_a_request_whose_replica_is_out_of_reach_is_sent_on(monkeypatch: pytest.MonkeyPatch):
    """Its heartbeat has stopped and it had not begun, but no request pulls a cable."""
    monkeypatch.setattr(roster, "SILENT_S", 0.4)

    async def body():
        silent, other = Replica("a"), Replica("b")
        silent.begins = False
        silent.gate.clear()
        async with system(silent) as live:
            asked = asyncio.create_task(live.infer(parameters={"seed": 1}))
            await silent.arrived.wait()
            await live.join(other)
            live.beats.pop("a").cancel()
            await until(lambda: live.front._roster.silent("a"))
            silent.cut = "Stream removed (recvmsg:No route to host (113))"
            silent.gate.set()
            assert (await asked).as_numpy("y").tolist() == [3, 5]
            await live.kill(other)
            await silent.server.stop(None)

    asyncio.run(body())


def test_replicas_that_are_gone_already_do_not_count_as_lost_with_a_request():
    async def body():
        gone = [Replica(name) for name in "ab"]
        async with system(*gone, replay_wait_s=20) as live:
            for replica in gone:
                await live.kill(replica)  # the list has them for another second
            asked = asyncio.create_task(live.infer(parameters={"seed": 1}))
            await asyncio.sleep(0.1)
            await live.join(late := Replica("d"))
            assert (await asked).as_numpy("y").tolist() == [3, 5]
            await live.kill(late)

    asyncio.run(body())


def test_a_caller_whose_time_is_up_is_late_and_not_cancelled():
    """Its own clock says so first, since gRPC rounds the time that it sends up."""

    async def body():
        replica = Replica("a")
        replica.gate.clear()
        async with system(replica) as live:
            given = [0.1234, 0.4321, 0.9876, 1.2345, 1.4561] * 6
            ended = await asyncio.gather(*(live.refusal(client_timeout=each) for each in given))
            assert {code for code, _ in ended} == {"DEADLINE_EXCEEDED"}
            counted = {
                code: live.front.metrics.requests.labels("adder", "ModelInfer", code)._value
                for code in ("DEADLINE_EXCEEDED", "CANCELLED")
            }
            await until(lambda: sum(each.get() for each in counted.values()) == len(given))
            assert counted["DEADLINE_EXCEEDED"].get() == len(given)
            asked = asyncio.create_task(live.infer(client_timeout=30))
            await asyncio.sleep(0.2)
            asked.cancel()
            await until(lambda: counted["CANCELLED"].get() == 1)

    asyncio.run(body())


def test_streams_without_a_message_do_not_hold_a_stopping_front():
    async def body():
        async with system(Replica("a"), drain_s=30) as live:

            async def silence() -> AsyncIterator[bytes]:
                await asyncio.sleep(60)
                yield b""

            async def status(call: grpc.aio.StreamStreamCall) -> grpc.StatusCode:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    async for _ in call:
                        pass
                return await call.code()

            names = (
                f"/{SAMPLING.full_name}/SampleInteractive",
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                f"/{INFERENCE.full_name}/ModelInfer",  # whose request never comes
            )
            calls = [live.channel.stream_stream(name)(silence()) for name in names]
            await asyncio.sleep(0.3)
            began = time.monotonic()
            await live.front.stop()
            assert time.monotonic() - began < 5
            assert [await status(call) for call in calls[:2]] == [grpc.StatusCode.UNAVAILABLE] * 2
            for call in calls:
                call.cancel()

    asyncio.run(body())


@pytest.mark.parametrize(
    ("service", "method"),
    [
        (INFERENCE.full_name, "ServerLive"),
        (INFERENCE.full_name, "ModelReady"),
        ("grpc.health.v1.Health", "Check"),
        ("tiltserve.v1.Fleet", "ListModels"),
        ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo"),
    ],
)
def test_requests_of_a_name_or_two_are_short(service: str, method: str):
    async def body():
        async with system(Replica("a")) as live:
            path, streams = f"/{service}/{method}", method == "ServerReflectionInfo"
            for data, text in (
                (b"\x0a\x80\x80\x40" + b"a" * 2**20, "expected a request of at most 65536 bytes, got 1048580"),
                (b"\xff", "expected a protocol buffer message, got 1 bytes that do not parse"),
            ):
                if streams:
                    reply = live.channel.stream_stream(path)(iter([data])).read()
                else:
                    reply = live.channel.unary_unary(path)(data)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await reply
                assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, text)

    asyncio.run(body())


def test_no_equal_replica_in_time():
    async def body():
        replica = Replica("a")
        replica.gate.clear()
        async with system(replica, replay_wait_s=0.3) as live:
            asked = asyncio.create_task(live.refusal())
            await replica.arrived.wait()
            await live.kill(replica)
            code, text = await asked
            assert code == "UNAVAILABLE"
            assert "within 0.3 s" in text

    asyncio.run(body())


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE])
def test_a_replicas_own_errors_are_not_replayed(code):
    async def body():
        replicas = [Replica("a"), Replica("b")]
        for replica in replicas:
            replica.error = errors.RequestError(code, "steps: expected 1..1000, got 0")
        async with system(*replicas) as live:
            assert await live.refusal() == (code.name, "steps: expected 1..1000, got 0")
            assert sum(len(replica.seen) for replica in replicas) == 1

    asyncio.run(body())


def test_an_exception_in_a_replica_is_internal_and_not_replayed():
    async def body():
        replicas = [Replica("a"), Replica("b")]
        for replica in replicas:
            replica.error = ValueError("broken")
        async with system(*replicas) as live:
            code, text = await live.refusal()
            assert (code, sum(len(replica.seen) for replica in replicas)) == ("INTERNAL", 1)
            assert "failed inside its replica" in text

    asyncio.run(body())


def test_a_draining_replica_sends_requests_elsewhere():
    async def body():
        leaving, staying = Replica("a"), Replica("b")
        leaving.error = errors.draining("replica a is draining")
        async with system(leaving) as live:
            asked = asyncio.create_task(live.infer())
            await leaving.arrived.wait()
            leaving.draining = True
            await live.join(staying)
            await asked
            assert leaving.seen[0].parameters == staying.seen[0].parameters
            await live.kill(staying)

    asyncio.run(body())


@pytest.mark.parametrize(("backlog", "answered"), [(900, False), (100, True)])
def test_a_refused_request_goes_to_an_equal_replica_with_clearly_less_to_do(backlog: int, answered: bool):
    async def body():
        full, other, unequal = Replica("a"), Replica("b"), Replica("c", sampler("g"))
        full.backlog = 1000
        full.error = errors.exhausted("a is full")
        full.gate.clear()
        async with system(full) as live:
            asked = [asyncio.create_task(live.infer(parameters={"seed": 1})) for _ in range(3)]
            await full.arrived.wait()
            other.backlog = backlog
            await live.join(other, unequal)
            full.gate.set()
            await asyncio.wait(asked)
            if answered:
                assert [each.result().as_numpy("y").tolist() for each in asked] == [[3, 5]] * 3
            else:
                assert all("a is full" in str(each.exception()) for each in asked)
            assert [len(each.seen) for each in (full, other, unequal)] == [3, 3 * answered, 0]
            await live.kill(unequal)
            await until(lambda: len(live.front._roster.index.replicas) == 2)
            other.error = errors.exhausted("b is full")
            code, text = await live.refusal(parameters={"seed": 1})
            assert (code, text) in [("RESOURCE_EXHAUSTED", "a is full"), ("RESOURCE_EXHAUSTED", "b is full")]
            await live.kill(other)

    asyncio.run(body())


def test_rows_under_way_count_until_a_report_has_them():
    async def body():
        replica = Replica("a")
        replica.gate.clear()
        async with system(replica, poll_s=0.02) as live:
            links, roster = live.front._links, live.front._roster

            def unreported() -> int:
                return links.unreported("a", roster.covered)

            live.beats["a"].cancel()  # no report from here on
            await asyncio.sleep(0.1)
            asked = [asyncio.create_task(live.infer(parameters={"samples": n, "steps": 5})) for n in (3, 4)]
            await until(lambda: len(replica.seen) == 2)
            assert unreported() == 5 * (3 + 4)
            await asyncio.sleep(0.2)
            assert unreported() == 5 * (3 + 4)
            live.directory.beat(replica.state())
            await until(lambda: unreported() == 0)
            assert links.in_flight() == {"a": 2}
            late = asyncio.create_task(live.infer(parameters={"samples": 2, "steps": 5}))
            await until(lambda: len(replica.seen) == 3)
            assert unreported() == 10
            replica.gate.set()
            await asyncio.gather(*asked, late)
            assert unreported() == 0
            assert links.in_flight() == {"a": 0}

    asyncio.run(body())


def test_a_channel_is_not_closed_while_a_replica_is_asked_something():
    """It would cancel whoever waits, who has no error to tell then."""

    async def body():
        with socket.create_server(("127.0.0.1", 0)) as silent:
            links = Links()
            link = links.to(ReplicaState("a", f"127.0.0.1:{silent.getsockname()[1]}", 1))
            asked = asyncio.create_task(link.folders(0.5))
            await until(lambda: links.in_flight() == {"a": 1})
            await links.keep(())
            with pytest.raises(grpc.aio.AioRpcError):
                await asked
            await links.keep(())
            assert links.in_flight() == {}

    asyncio.run(body())


def test_unknown_and_loading_models():
    async def body():
        async with system(Replica("a", sampler(), ModelState("slow", "1", "network", "LOADING"))) as live:
            assert await live.refusal(model="dogs") == (
                "NOT_FOUND",
                "unknown model 'dogs', expected one of adder, slow",
            )
            assert await live.refusal(model="slow") == ("UNAVAILABLE", "model 'slow' is loading")
            assert (await live.refusal(model_version="9"))[0] == "NOT_FOUND"
        async with system() as live:
            assert await live.refusal() == ("UNAVAILABLE", "model 'adder': no replica is up")
            assert not await live.client.is_server_ready()

    asyncio.run(body())


def test_the_earlier_deadline_counts():
    async def body():
        replica = Replica("a")
        replica.gate.clear()
        async with system(replica) as live:
            began = time.monotonic()
            assert (await live.refusal(timeout=200_000))[0] == "DEADLINE_EXCEEDED"
            assert (await live.refusal(client_timeout=0.2, timeout=10_000_000))[0] == "DEADLINE_EXCEEDED"
            assert time.monotonic() - began < 2
            assert len(replica.seen) == 2
            code, text = await live.refusal(timeout=-1)
            assert code == "INVALID_ARGUMENT"
            assert "'timeout': expected an integer >= 0" in text
            ended = live.front.metrics.requests.labels("adder", "ModelInfer", "DEADLINE_EXCEEDED")
            await until(lambda: ended._value.get() == 2)

    asyncio.run(body())


def test_a_client_that_leaves_frees_the_replica():
    async def body():
        replica = Replica("a")
        replica.gate.clear()
        async with system(replica) as live:
            asked = asyncio.create_task(live.infer())
            await replica.arrived.wait()
            asked.cancel()
            await asyncio.wait_for(replica.cancelled.wait(), 5)
            assert live.front._links.in_flight() == {"a": 0}

    asyncio.run(body())


def test_the_last_list_is_kept_while_the_directory_is_down():
    class Failing(LocalDirectory):
        down = False

        async def listing(self) -> Listing:
            if self.down:
                raise ConnectionError("down")
            return await super().listing()

    async def body():
        directory, replica = Failing(), Replica("a")
        await replica.start()
        await directory.beat(replica.state())
        front = Front(directory, poll_s=0.02)
        await front.start()
        try:
            directory.down = True
            await directory.leave("a")
            await asyncio.sleep(0.2)
            await System(front, directory.directory).infer()
        finally:
            await front.stop()
            await replica.server.stop(None)

    asyncio.run(body())


def test_bytes_that_are_no_message():
    async def body():
        async with system(Replica("a")) as live:
            call = live.channel.unary_unary(f"/{INFERENCE.full_name}/ModelInfer")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\xff\xff\xff")
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(body())


def test_health_follows_the_replicas():
    async def body():
        replica = Replica("a")
        async with system() as live:
            stub = health_pb2_grpc.HealthStub(live.channel)
            leaving = stub.Watch(health_pb2.HealthCheckRequest())
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=INFERENCE.full_name))
            states = health_pb2.HealthCheckResponse
            assert (await leaving.read()).status == states.NOT_SERVING
            assert (await watch.read()).status == states.NOT_SERVING
            leaving.cancel()
            await live.join(replica)
            assert (await watch.read()).status == states.SERVING
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == states.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Check(health_pb2.HealthCheckRequest(service="no.such"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            unknown = stub.Watch(health_pb2.HealthCheckRequest(service="no.such"))
            assert (await unknown.read()).status == states.SERVICE_UNKNOWN
            await live.kill(replica)
            assert (await watch.read()).status == states.NOT_SERVING  # the lease ran out
            await live.join(again := Replica("b"))
            assert (await watch.read()).status == states.SERVING
            stopping = asyncio.create_task(live.front.stop())
            assert (await watch.read()).status == states.NOT_SERVING
            assert await watch.read() is grpc.aio.EOF
            await stopping
            await live.kill(again)

    asyncio.run(body())


def test_each_model_and_version_has_a_health_of_its_own():
    async def body():
        states = health_pb2.HealthCheckResponse
        old, new = Replica("a", sampler()), Replica("b", sampler(state="LOADING"))
        async with system() as live:
            stub = health_pb2_grpc.HealthStub(live.channel)

            async def check(service: str) -> int:
                return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status

            watch = stub.Watch(health_pb2.HealthCheckRequest(service="adder"))
            assert (await watch.read()).status == states.SERVICE_UNKNOWN
            await live.join(new)
            assert (await watch.read()).status == states.NOT_SERVING
            assert await check("adder") == states.NOT_SERVING
            await live.join(old)
            assert (await watch.read()).status == states.SERVING
            assert [await check(each) for each in ("adder", "adder/1", "")] == [states.SERVING] * 3
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check("adder/7")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert caught.value.details().startswith("unknown service 'adder/7', expected a model or one of ")
            await live.kill(old)
            await live.kill(new)
            assert (await watch.read()).status in (states.NOT_SERVING, states.SERVICE_UNKNOWN)
            stopping = asyncio.create_task(live.front.stop())
            while (reply := await watch.read()) is not grpc.aio.EOF:
                assert reply.status in (states.NOT_SERVING, states.SERVICE_UNKNOWN)
            await stopping

    asyncio.run(body())


def test_watches_are_bounded(monkeypatch: pytest.MonkeyPatch):
    async def body():
        async with system() as live:
            live.front._health._most_watches = 3
            stub = health_pb2_grpc.HealthStub(live.channel)
            watches = [stub.Watch(health_pb2.HealthCheckRequest(service=str(i))) for i in range(3)]
            for each in watches:
                await each.read()
            with pytest.raises(grpc.aio.AioRpcError, match="expected at most 3 watches at a time, got one more"):
                await stub.Watch(health_pb2.HealthCheckRequest()).read()
            watches[0].cancel()
            await until(lambda: live.front._health._watches < 3)
            assert await stub.Watch(health_pb2.HealthCheckRequest()).read()

    asyncio.run(body())


def test_a_stopping_front_finishes_its_requests():
    async def body():
        replica = Replica("a")
        replica.gate.clear()
        async with system(replica, drain_s=5) as live:
            asked = asyncio.create_task(live.infer())
            await replica.arrived.wait()
            stopping = asyncio.create_task(live.front.stop())
            await asyncio.sleep(0.1)
            replica.gate.set()
            assert (await asked).as_numpy("y").shape == (2,)
            await asyncio.wait_for(stopping, 3)

    asyncio.run(body())


def test_clients_that_ask_while_a_front_stops_are_told_so():
    """Also those whose calls wait to be taken in at that moment, which gRPC itself would end as CANCELLED, and also
    where the front is slow to take them in."""

    async def hold_up() -> None:
        while True:
            time.sleep(0.02)  # noqa: ASYNC251 - it is there to hold up the event loop
            await asyncio.sleep(0)

    async def body():
        async with system(Replica("a"), drain_s=5) as live:

            async def ask_on() -> str:
                async with triton_aio.InferenceServerClient(live.front.grpc_address) as client:
                    tensor = triton.InferInput("x", [1], "FP32")
                    tensor.set_data_from_numpy(np.zeros(1, np.float32))
                    while True:
                        try:
                            await client.infer("adder", [tensor])
                        except InferenceServerException as error:
                            return error.status().removeprefix("StatusCode.")

            asking = [asyncio.create_task(ask_on()) for _ in range(20)]
            await until(lambda: live.front._under_way.came > 40)
            busy = asyncio.create_task(hold_up())
            await live.front.stop()
            busy.cancel()
            assert await asyncio.gather(*asking) == ["UNAVAILABLE"] * 20

    asyncio.run(body())


def test_reflection_describes_every_service():
    async def body():
        async with system(Replica("a")) as live:

            def describe() -> tuple[set[str], int]:
                with grpc.insecure_channel(live.front.grpc_address) as channel:
                    database = ProtoReflectionDescriptorDatabase(channel)
                    file = database.FindFileContainingSymbol("inference.GRPCInferenceService")
                    assert database.FindFileContainingSymbol("tiltserve.v1.Fleet").package == "tiltserve.v1"
                    return set(database.get_services()), len(file.service[0].method)

            services, methods = await asyncio.to_thread(describe)
            assert methods == 20
            assert services == {
                "inference.GRPCInferenceService",
                "tiltserve.v1.Distillation",
                "tiltserve.v1.Fleet",
                "tiltserve.v1.Sampling",
                "grpc.health.v1.Health",
                "grpc.reflection.v1alpha.ServerReflection",
            }

    asyncio.run(body())


def test_the_fleet_lists_models_and_replicas():
    async def body():
        loading = ModelState("adder", "2", "sampler", "LOADING")
        async with system(Replica("a"), Replica("b", loading)) as live:
            reply = await fleet_pb2_grpc.FleetStub(live.channel).ListModels(fleet_pb2.ListModelsRequest())
            (model,) = reply.models
            assert (model.name, model.state, model.kind, list(model.versions)) == ("adder", "READY", "sampler", ["1"])
            assert model.reason == (
                "version 1: READY on 1 of 2 replicas; not loaded on 1 of 2 replicas; "
                "version 2: LOADING on 1 of 2 replicas; not loaded on 1 of 2 replicas"
            )
            assert [(each.id, dict(each.fingerprints)) for each in reply.replicas] == [
                ("a", {"adder": "f"}),
                ("b", {"adder": ""}),
            ]

    asyncio.run(body())


def test_the_metrics_page_shows_the_front_and_its_replicas():
    async def body():
        async with system(Replica("a"), Replica("b")) as live:
            for _ in range(20):
                await live.infer()
            await live.refusal(model="made up by a client")
            url = f"http://{live.front.metrics_address}/metrics"
            page = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()
            names = "tiltserve_requests_total", "tiltserve_backlog_rows", "tiltserve_bucket_fill_bucket"
            some = f"{url}?{urllib.parse.urlencode([('name[]', name) for name in names])}"
            filtered = (await asyncio.to_thread(lambda: urllib.request.urlopen(some).read())).decode()
        assert {line for line in filtered.splitlines() if line[0] != "#"} == {
            line for line in page.splitlines() if line.startswith(names)
        }
        assert 'tiltserve_backlog_rows{replica_id="a"}' in filtered
        samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

        def value(name: str, **labels: str) -> float:
            return samples[name, frozenset(labels.items())]

        assert value("tiltserve_requests_total", model="adder", method="ModelInfer", code="OK") == 20
        assert value("tiltserve_requests_total", model="", method="ModelInfer", code="NOT_FOUND") == 1
        assert value("tiltserve_request_seconds_count", model="adder", method="ModelInfer") == 20
        assert value("nv_inference_request_success", model="adder") == 20
        assert value("nv_inference_request_failure", model="") == 1
        rows = [value("tiltserve_rows_total", model="adder", kind="network", replica_id=name) for name in "ab"]
        assert min(rows) > 0
        assert sum(rows) == 40
        assert value("tiltserve_backlog_rows", replica_id="a") == 0
        types = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
        assert len(types) == len(set(types))

    asyncio.run(body())


def test_a_taken_port_is_one_line():
    async def body():
        async with system() as live:
            grpc_port, metrics_port = (
                int(address.rpartition(":")[2]) for address in (live.front.grpc_address, live.front.metrics_address)
            )
            for front in (
                Front(LocalDirectory(), grpc_port=grpc_port),
                Front(LocalDirectory(), metrics_port=metrics_port),
            ):
                with pytest.raises(PortError, match="expected a free port") as caught:
                    await front.start()
                assert "\n" not in str(caught.value)

    asyncio.run(body())


def test_a_large_message_passes():
    async def body():
        async with system(Replica("a")) as live:
            x = list(itertools.repeat(1.0, 2_000_000))
            assert (await live.infer(x, parameters={"seed": 0})).as_numpy("y").sum() == 4_000_000

    asyncio.run(body())


def test_trace_settings_are_shown_and_changed():
    async def body():
        async with system(Replica("a")) as live:
            changed = await live.client.update_trace_settings(
                "adder", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}
            )
            assert changed.settings["trace_level"].value == ["TIMESTAMPS"]
            assert live.front.trace_settings.sampled("adder")
            whole = await live.client.get_trace_settings()
            assert whole.settings["trace_level"].value == ["OFF"]
            for settings, model, code in (
                ({"trace_level": "TIMESTAMPS"}, "nobody", "NOT_FOUND"),
                ({"trace_levels": "OFF"}, None, "INVALID_ARGUMENT"),
                ({"trace_file": "/etc/passwd"}, None, "UNIMPLEMENTED"),
            ):
                with pytest.raises(InferenceServerException) as caught:
                    await live.client.update_trace_settings(model, settings)
                assert caught.value.status() == f"StatusCode.{code}"

    asyncio.run(body())
