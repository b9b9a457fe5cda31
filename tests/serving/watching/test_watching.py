"""One request, watched across a front, replicas and a reward service: ids, times, log lines and spans."""

import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from serving.watching import times
from serving.watching.spans import Spans
from serving.watching.watching import Watching
from serving.wire.streamed import AS_STATUS
from tests.serving.live import Live, Service, until

LONG: dict[str, Any] = {"samples": 1000, "steps": 1000}


class Watched:
    """A server whose spans are kept, and a reward service that keeps the metadata of its calls."""

    def __init__(self, models: Path) -> None:
        self.exporter, self.service = InMemorySpanExporter(), Heard()
        made = [Watching(access_log=True, spans=Spans(SimpleSpanProcessor(self.exporter), part=part)) for part in "fr"]
        self.live = Live(
            models, 1, front={"watching": made[0]}, watching=made[1], rewards={"mine": self.service.address}
        )
        self.channel = grpc.insecure_channel(self.live.address)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()
        self.live.stop()
        self.service.stop()

    def infer(
        self, metadata: Mapping[str, str] | None = None, message_id: str = "", within: float = 60, **parameters: Any
    ) -> tuple[pb.ModelInferResponse, dict[str, str]]:
        """The answer and the metadata that came with it."""
        request = asked("rings", message_id, **parameters)
        reply, call = self.stub.ModelInfer.with_call(request, timeout=within, metadata=[*(metadata or {}).items()])
        return reply, dict(call.trailing_metadata())

    def spans(self) -> list[Any]:
        """What was exported since the last time, once the call has ended at the front and at the replica."""
        until(lambda: sum(each.kind is SpanKind.SERVER for each in self.exporter.get_finished_spans()) == 2)
        found = list(self.exporter.get_finished_spans())
        self.exporter.clear()
        return found


class Heard(Service):
    def __init__(self) -> None:
        self.metadata: list[dict[str, str]] = []
        super().__init__()

    def Score(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.metadata.append(dict(context.invocation_metadata()))
        return super().Score(request, context)


def asked(model: str, message_id: str = "", **parameters: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, id=message_id)
    for name, value in parameters.items():
        kind = {int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def of(span: Any, name: str) -> Any:
    return (span.attributes or {}).get(f"tiltserve.{name}")


def seconds(span: Any) -> float:
    return (span.end_time - span.start_time) / 1e9


def named(spans: list[Any], name: str) -> Any:
    (found,) = [each for each in spans if each.name == name]
    return found


@pytest.fixture(scope="module")
def watched(small_models: Path) -> Iterator[Watched]:
    made = Watched(small_models)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def fresh(watched: Watched) -> None:
    watched.exporter.clear()
    watched.service.metadata.clear()


def test_the_id_comes_back(watched: Watched):
    assert watched.infer({"x-request-id": "mine"}, "message")[1]["x-request-id"] == "mine"
    reply, metadata = watched.infer(message_id="message\n")
    assert metadata["x-request-id"] == "message\\n"
    assert reply.id == "message\n"
    assert re.fullmatch("[0-9a-f]{16}", watched.infer()[1]["x-request-id"])
    with pytest.raises(grpc.RpcError) as caught:
        watched.infer({"x-request-id": "wrong"}, steps=0)
    metadata = dict(caught.value.trailing_metadata())
    assert metadata["x-request-id"] == "wrong"
    assert metadata["tiltserve-error"] == "1"


def test_a_client_may_ask_for_the_times(watched: Watched):
    for _ in range(2):  # the first draws the bank
        reply, metadata = watched.infer(
            {"tiltserve-timing": "1"}, samples=8, steps=20, reward="nearness", reward_mode=3, particles=8
        )
    told = times.milliseconds(metadata["server-timing"])
    assert [*told] == ["decode", "queue", "network", "reward", "update", "encode", "replica", "total"]
    assert times.rows(metadata["server-timing"])["network"] == reply.parameters["network_rows"].int64_param
    assert told["queue"] + told["network"] + told["reward"] + told["encode"] <= told["replica"] <= told["total"]
    assert min(told["network"], told["reward"], told["update"]) > 0
    assert metadata["server-timing"].startswith(reply.parameters["server_timing"].string_param.split(", encode")[0])
    reply, metadata = watched.infer({"tiltserve-timing": "trailing"})
    assert "server-timing" in metadata
    assert "server_timing" not in reply.parameters
    for other in ({}, {"tiltserve-timing": "yes"}):
        reply, metadata = watched.infer(other)
        assert "server-timing" not in metadata
        assert "server_timing" not in reply.parameters


def test_a_line_for_each_call(watched: Watched, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO", "tiltserve.access"):
        _, metadata = watched.infer({"x-request-id": "mine"}, samples=2, steps=10, seed=1)
        with pytest.raises(grpc.RpcError):
            watched.stub.ModelInfer(asked("evil\nname"), timeout=20)
        until(lambda: sum(each.fields["tries"] > 0 or each.fields["status"] != "OK" for each in lines(caplog)) >= 2)
    front = [each for each in lines(caplog) if each.fields["peer"]]
    line = next(each for each in front if each.request_id == "mine" and each.fields["tries"])
    assert line.fields["rows"] == 20
    assert line.fields["model"] == "rings"
    assert line.fields["version"] == "1"
    assert line.fields["status"] == "OK"
    assert 0 < line.fields["queue_ms"] < line.fields["total_ms"]
    assert line.fields["bytes_in"] > 10
    assert line.fields["bytes_out"] > 16
    assert line.trace_id == metadata["traceresponse"].split("-")[1]
    assert any(each.fields["status"] == "NOT_FOUND" and each.fields["model"] == "evil\\nname" for each in front)


def lines(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [each for each in caplog.records if each.name == "tiltserve.access"]


def test_one_trace_from_the_client_to_the_reward_service(watched: Watched):
    parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    watched.infer(
        {"traceparent": parent, "x-request-id": "mine"}, samples=4, steps=5, reward="mine", particles=8, seed=1
    )
    spans = watched.spans()
    assert {f"{each.context.trace_id:032x}" for each in spans} == {"ab" * 16}
    front, replica = sorted((each for each in spans if each.kind is SpanKind.SERVER), key=lambda each: each.start_time)
    forward = named(spans, "forward")
    assert f"{front.parent.span_id:016x}" == "cd" * 8
    assert forward.parent.span_id == front.context.span_id
    assert replica.parent.span_id == forward.context.span_id
    inside = {each.name: each for each in spans if each.parent.span_id == replica.context.span_id}
    assert {"decode", "queue", "network rings", "reward mine elsewhere", "update", "encode", "Score"} == {*inside}
    scores = [each for each in spans if each.name == "Score"]
    heard = watched.service.metadata
    assert {each["traceparent"].split("-")[2] for each in heard} == {f"{each.context.span_id:016x}" for each in scores}
    assert {each["x-request-id"] for each in heard} == {"mine"}
    assert of(inside["network rings"], "rows") >= 20  # and those of the bank, once
    assert of(inside["reward mine elsewhere"], "rows") > 0
    compute = sum(of(inside[name], "seconds") for name in ("network rings", "reward mine elsewhere"))
    assert seconds(inside["queue"]) + compute <= seconds(replica) <= seconds(forward) <= seconds(front)
    assert (of(replica, "solver"), of(replica, "steps"), of(replica, "samples")) == ("dpmpp_2m", 5, 4)
    assert (of(front, "model"), of(front, "status"), of(front, "request_id")) == ("rings", "OK", "mine")
    assert all("seed" not in (each.attributes or {}) for each in spans)
    for each in spans:
        around = next((other for other in spans if other.context.span_id == each.parent.span_id), each)
        assert around.start_time <= each.start_time <= each.end_time <= around.end_time, each.name


def test_what_is_not_sampled_by_its_caller_is_passed_on_alone(watched: Watched):
    _, metadata = watched.infer({"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-00"}, reward="mine", steps=2)
    assert metadata["traceresponse"].startswith(f"00-{'ab' * 16}-")
    assert metadata["traceresponse"].endswith("-00")
    assert not watched.exporter.get_finished_spans()
    assert all(each["traceparent"].startswith(f"00-{'ab' * 16}-") for each in watched.service.metadata)


def stream(watched: Watched, *requests: pb.ModelInferRequest, **metadata: str) -> tuple[list[Any], dict[str, str]]:
    call = watched.stub.ModelStreamInfer(iter(requests), timeout=60, metadata=[*metadata.items()])
    return list(call), dict(call.trailing_metadata())


def test_requests_of_a_stream_have_traces_and_ids_of_their_own(watched: Watched, caplog: pytest.LogCaptureFixture):
    parent = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "x-request-id": "s", "tiltserve-timing": "1"}
    requests = [asked("rings", name, samples=2, steps=5, seed=1) for name in "xy"]
    with caplog.at_level("INFO", "tiltserve.access"):
        replies, _ = stream(watched, *requests, **parent)
        assert len(replies) == 2
        assert all("network;dur=" in each.infer_response.parameters["server_timing"].string_param for each in replies)
        until(lambda: sum(each.kind is SpanKind.SERVER for each in watched.exporter.get_finished_spans()) == 4)
    spans: list[Any] = list(watched.exporter.get_finished_spans())
    servers = [each for each in spans if each.kind is SpanKind.SERVER]
    assert {of(each, "request_id") for each in servers} == {"s/x", "s/y"}
    assert {each.status.status_code for each in servers} == {StatusCode.UNSET}
    assert [each.name for each in spans].count("network rings") == 2
    front = [each for each in lines(caplog) if each.fields["tries"]]
    assert {(each.request_id, each.fields["rows"], each.fields["status"]) for each in front} == {
        ("s/x", 10, "OK"),
        ("s/y", 10, "OK"),
    }


def test_requests_of_a_stream_whose_errors_are_its_status_have_records_of_their_own(watched: Watched):
    """At a replica too, where whoever comes without a front may ask any number: one record would keep them all."""
    requests = [asked("rings", name, samples=1, steps=2) for name in "xyz"]
    with grpc.insecure_channel(watched.live.replicas[0].state().address) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(
            iter(requests), timeout=60, metadata=[AS_STATUS, ("tiltserve-timing", "trailing")]
        )
        assert len(list(call)) == 3
        assert "server-timing" in dict(call.trailing_metadata())
    servers = [each for each in watched.exporter.get_finished_spans() if each.kind is SpanKind.SERVER]
    assert sorted(str(of(each, "request_id")) for each in servers) == ["x", "y", "z"]


def test_trace_settings_choose_requests_of_a_model(watched: Watched):
    settings = watched.live.front.trace_settings
    spans = watched.live.front.metrics.watching.spans
    assert spans is not None
    ratio, spans.ratio = spans.ratio, 0.0
    try:
        watched.infer()
        assert not watched.exporter.get_finished_spans()
        settings.update({"level": ["TIMESTAMPS"], "rate": ["2"]}, "rings")
        for _ in range(4):
            watched.infer()
        until(lambda: sum(each.kind is SpanKind.SERVER for each in watched.exporter.get_finished_spans()) == 4)
    finally:
        settings.update({"level": [], "rate": []}, "rings")
        spans.ratio = ratio


def test_errors_and_callers_that_leave_end_their_spans(watched: Watched):
    with pytest.raises(grpc.RpcError):
        watched.infer(steps=0)
    spans = watched.spans()
    servers = [each for each in spans if each.kind is SpanKind.SERVER]
    assert {each.status.status_code for each in servers} == {StatusCode.ERROR}
    assert {each.status.description for each in (*servers, named(spans, "forward"))} == {"INVALID_ARGUMENT"}
    call = watched.stub.ModelInfer.future(asked("rings", **LONG))
    until(lambda: watched.live.replicas[0]._engine.backlog_rows)
    threading.Event().wait(0.1)
    call.cancel()
    spans = watched.spans()
    assert {each.status.description for each in spans if each.kind is SpanKind.SERVER} == {"CANCELLED"}
    assert "network rings" in {each.name for each in spans}
