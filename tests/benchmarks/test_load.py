"""The load generator, on a real gRPC server that keeps calls for a while and counts what runs at once."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from benchmarks._load import LEFT, Closed, Driver, Open, Request, each_once, infer_body, load, percentile

HOLD_S = 0.05


@dataclass
class Counting:
    """Answers an inference with its own first input and two rows; `steps` 0 is refused, `steps` 9 is kept for long."""

    address: str = ""
    most: int = 0
    running: int = 0
    left: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        request = pb.ModelInferRequest.FromString(data)
        steps = request.parameters["steps"].int64_param
        context.add_callback(self._ended)
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        if steps == 0:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "steps: got 0")
        end = time.monotonic() + (5.0 if steps == 9 else HOLD_S)
        while time.monotonic() < end and context.is_active():
            time.sleep(0.005)
        self.left += not context.is_active()
        reply = pb.ModelInferResponse(parameters={"network_rows": pb.InferParameter(int64_param=2)})
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            reply.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            reply.raw_output_contents.append(raw)
        return reply.SerializeToString()

    def _ended(self) -> None:
        with self.lock:
            self.running -= 1


@pytest.fixture
def server() -> Iterator[Counting]:
    counting = Counting()
    running = grpc.server(ThreadPoolExecutor(32))
    handler = grpc.unary_unary_rpc_method_handler(counting.answer)
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})
    running.add_generic_rpc_handlers([service])
    counting.address = f"127.0.0.1:{running.add_insecure_port('127.0.0.1:0')}"
    running.start()
    yield counting
    running.stop(1).wait()


def request(number: int = 0, steps: int = 1, **more: object) -> Request:
    body = infer_body("echo", {"steps": steps}, {"x": np.full((2, 3), number, np.float32)})
    return Request("echo", body, number, **more)  # type: ignore[arg-type]


def test_every_request_is_sent_once_and_equal_answers_have_equal_digests(server: Counting) -> None:
    records = each_once(server.address, [request(number % 3) for number in range(9)], clients=4)
    assert sorted(record.tag for record in records) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert {(record.status, record.rows) for record in records} == {("OK", 2)}
    digests = {tag: {record.digest for record in records if record.tag == tag} for tag in range(3)}
    assert [len(each) for each in digests.values()] == [1, 1, 1]
    assert len(set.union(*digests.values())) == 3
    assert all(HOLD_S <= record.seconds < 5 for record in records)


def test_a_closed_loop_keeps_its_clients_busy_and_no_more(server: Counting) -> None:
    records = load(server.address, [request()], Closed(5), 1.0)
    assert server.most == 5
    assert 5 * 1.0 / HOLD_S / 3 < len(records) <= 5 * (1.0 / HOLD_S + 1)


def test_an_open_loop_sends_at_its_rate_whatever_is_still_running(server: Counting) -> None:
    records = load(server.address, [request(steps=9, timeout=0.5)], Open(20.0, seed=1), 1.0)
    assert {record.status for record in records} == {"DEADLINE_EXCEEDED"}
    assert 8 <= len(records) <= 36  # Poisson: 20 +- 4.5
    assert server.most >= 4
    assert all(record.due <= record.sent for record in records)


@pytest.mark.parametrize("closes", [False, True])
def test_a_client_that_leaves_ends_its_call_on_the_server(server: Counting, closes: bool) -> None:
    began = time.monotonic()
    (record,) = each_once(server.address, [request(steps=9, leaves=0.2, closes=closes)])
    assert record.status == LEFT
    assert 0.2 <= time.monotonic() - began < 4
    end = time.monotonic() + 4
    while not server.left and time.monotonic() < end:
        time.sleep(0.01)
    assert server.left == 1


def test_refusals_and_absent_servers_are_recorded(server: Counting) -> None:
    (refused,) = each_once(server.address, [request(steps=0)])
    assert (refused.status, refused.detail) == ("INVALID_ARGUMENT", "steps: got 0")
    (nobody,) = each_once("127.0.0.1:1", [request()])
    assert nobody.status == "UNAVAILABLE"


def test_a_driver_stops_an_endless_load_and_starts_another(server: Counting) -> None:
    with Driver() as driver:
        loading = driver.start(server.address, [request(steps=9)], Closed(2), float("inf"), finish=False)
        while server.running < 2:
            time.sleep(0.01)
        driver.stop()
        assert [record.status for record in loading.result(10)] == [LEFT, LEFT]
        assert [record.status for record in driver.once(server.address, [request()] * 3)] == ["OK"] * 3


def test_percentiles() -> None:
    assert percentile(range(101), 99) == 99
    assert np.isnan(percentile([], 50))
