"""ModelStatistics and Triton's metrics, against what was sent."""

import queue
import threading
import time
from functools import partial
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tests.serving.front.protocol.conftest import Refusal
from tests.serving.live import Live, until

Client: TypeAlias = Any  # tritonclient has no types
PHASES = ("queue", "compute_input", "compute_infer", "compute_output")


def of(client: Client, name: str) -> pb.ModelStatistics:
    (found,) = client.get_inference_statistics(name).model_stats
    return found


def since(before: pb.ModelStatistics, after: pb.ModelStatistics) -> pb.ModelStatistics:
    """What was counted between the two."""
    new = pb.ModelStatistics()
    new.CopyFrom(after)
    new.inference_count -= before.inference_count
    new.execution_count -= before.execution_count
    pairs: list[tuple[Any, Any]] = [
        (new.inference_stats, before.inference_stats),
        (new.response_stats["0"], before.response_stats["0"]),
    ]
    earlier = {each.batch_size: each for each in before.batch_stats}
    pairs += [(each, earlier[each.batch_size]) for each in new.batch_stats if each.batch_size in earlier]
    for ours, theirs in pairs:
        for field, old in theirs.ListFields():
            if field.message_type is not None:
                duration = getattr(ours, field.name)
                duration.count, duration.ns = duration.count - old.count, duration.ns - old.ns
    return new


def network(rows: int) -> list[triton.InferInput]:
    sent = [triton.InferInput("x", [rows, 2], "FP32"), triton.InferInput("t", [rows], "FP32")]
    sent[0].set_data_from_numpy(np.ones((rows, 2), np.float32))
    sent[1].set_data_from_numpy(np.full(rows, 0.5, np.float32))
    return sent


def test_counts_are_those_of_what_was_sent(client: Client, refusal: Refusal):
    """On both replicas together, requests of several sizes after one another: each is a call of its own."""
    sizes, names = [1, 1, 3, 300, 3, 1], ("rings.network", "rings", "nearness")
    earlier = [of(client, name) for name in names]
    before, began = time.time(), time.monotonic()
    for rows in sizes:
        client.infer("rings.network", network(rows))
    for _ in range(3):
        client.infer("rings", [], parameters={"samples": 5, "steps": 4, "solver": "ddim"})
    steered = {"samples": 2, "steps": 2, "reward": "nearness", "reward_mode": 6}
    report = client.infer("rings", [], parameters=steered).get_response().parameters
    for wrong in ({"samples": 0}, {"solver": "magic"}):
        assert refusal(partial(client.infer, "rings", [], parameters=wrong))[0] == "INVALID_ARGUMENT"
    assert refusal(lambda: client.infer("rings", [], model_version="7"))[0] == "NOT_FOUND"
    passed = time.monotonic() - began
    raw, sampler, reward = (since(old, of(client, name)) for old, name in zip(earlier, names, strict=True))

    assert (raw.inference_count, raw.inference_stats.success.count) == (sum(sizes), len(sizes))
    calls = {each.batch_size: each.compute_infer.count for each in raw.batch_stats if each.compute_infer.count}
    assert (calls.pop(1), calls.pop(3)) == (3, 2)
    assert sum(rows * count for rows, count in calls.items()) == 300  # in calls of the sizes that cost least
    assert raw.execution_count == 5 + sum(calls.values())
    assert raw.inference_stats.fail.count == 0

    assert (sampler.inference_count, sampler.inference_stats.success.count) == (17, 4)
    # an unknown version belongs to no model's statistics
    assert (sampler.inference_stats.fail.count, sampler.response_stats["0"].cancel.count) == (2, 0)
    calls = {each.batch_size: each.compute_infer.count for each in sampler.batch_stats if each.compute_infer.count}
    assert (calls[5], calls[2]) == (12, 2)
    rows = sum(rows * count for rows, count in calls.items())
    assert rows == 60 + report["network_rows"].int64_param + report["setup_rows"].int64_param
    assert reward.inference_stats.success.count == reward.inference_count == 0
    assert reward.execution_count == sum(each.compute_infer.count for each in reward.batch_stats) > 0

    for each in (raw, sampler):
        infer, whole = each.inference_stats, each.inference_stats.success
        assert {getattr(infer, name).count for name in PHASES} == {whole.count}
        assert abs(whole.ns - sum(getattr(infer, name).ns for name in PHASES)) < 1000 * whole.count
        assert 0 < infer.compute_infer.ns < whole.ns < 1e9 * passed
        in_calls = sum(part.compute_input.ns + part.compute_infer.ns for part in each.batch_stats)
        assert 0 < sum(part.compute_infer.ns for part in each.batch_stats) <= in_calls < 1e9 * passed
        assert before - 1 < each.last_inference / 1000 < time.time() + 1
        assert (infer.cache_hit.count, infer.cache_miss.count) == (0, 0)
    assert 0 < sampler.inference_stats.fail.ns < 1e9 * passed
    assert sum(each.byte_size for each in sampler.memory_usage) > 0


def test_samples_that_come_in_groups_count_all(client: Client):
    earlier = of(client, "rings")
    came: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: came.put(error or result))
    client.async_stream_infer("rings", [], parameters={"samples": 40, "steps": 2, "stream_samples": True})
    groups = [came.get(timeout=60).as_numpy("samples") for _ in range(2)]
    client.stop_stream()
    assert [len(each) for each in groups] == [16, 24]
    assert since(earlier, of(client, "rings")).inference_count == 40


def test_metrics_have_tritons_names_and_the_same_numbers(live: Live, client: Client):
    client.infer("rings.network", network(4))
    told = of(client, "rings.network")
    metric = {
        "nv_inference_count": told.inference_count,
        "nv_inference_exec_count": told.execution_count,
        "nv_inference_request_success": told.inference_stats.success.count,
        "nv_inference_request_duration_us": told.inference_stats.success.ns // 1000,
        **{f"nv_inference_{name}_duration_us": getattr(told.inference_stats, name).ns // 1000 for name in PHASES},
    }
    for name, value in metric.items():
        assert live.metric(name, model="rings.network") == pytest.approx(value, abs=2), name  # whole us of each replica


def test_a_cancelled_request_failed(live: Live, client: Client):
    before = of(client, "rings")
    call = client.async_infer(
        "rings", [], callback=lambda result, error: None, parameters={"samples": 512, "steps": 1000, "solver": "euler"}
    )
    time.sleep(0.3)
    call.cancel()
    until(lambda: of(client, "rings").response_stats["0"].cancel.count == before.response_stats["0"].cancel.count + 1)
    after = of(client, "rings")
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
    assert after.inference_count == before.inference_count


def test_what_fails_at_the_front_counts_too(live: Live, client: Client):
    before = of(client, "rings").inference_stats.fail.count
    request = pb.ModelInferRequest(model_name="rings")
    request.parameters["timeout"].string_param = "soon"
    with grpc.insecure_channel(live.address) as channel, pytest.raises(grpc.RpcError, match="timeout"):
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert of(client, "rings").inference_stats.fail.count == before + 1


def test_requests_at_once_share_calls(live: Live, client: Client):
    """Eight clients of a network: no more calls than requests, and every row is counted once."""
    before = of(client, "rings.network")

    def ask() -> None:
        with triton.InferenceServerClient(live.address) as mine:
            for _ in range(10):
                mine.infer("rings.network", network(2))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    after = of(client, "rings.network")
    assert after.inference_count - before.inference_count == 160
    assert after.inference_stats.success.count - before.inference_stats.success.count == 80
    assert 0 < after.execution_count - before.execution_count <= 80
    rows = sum(each.batch_size * each.compute_infer.count for each in after.batch_stats)
    assert rows - sum(each.batch_size * each.compute_infer.count for each in before.batch_stats) == 160


def test_all_models_and_those_that_there_are_not(client: Client, refusal: Refusal):
    everything = [(each.name, each.version) for each in client.get_inference_statistics().model_stats]
    names = ["nan", "nearness", "rings", "rings.network", "stripes", "stripes.network"]
    assert everything == [(name, "1") for name in names]
    assert refusal(lambda: client.get_inference_statistics("dogs"))[0] == "NOT_FOUND"
    assert refusal(lambda: client.get_inference_statistics("rings", "2"))[0] == "NOT_FOUND"
    assert refusal(lambda: client.get_inference_statistics("", "1"))[0] == "INVALID_ARGUMENT"


def test_a_replica_tells_its_own(live: Live, client: Client):
    """Asked directly; the front's are the sum of both."""
    parts = []
    for replica in live.replicas:
        with triton.InferenceServerClient(replica._address) as direct:
            parts.append(of(direct, "rings.network"))
    assert sum(each.inference_count for each in parts) == of(client, "rings.network").inference_count
