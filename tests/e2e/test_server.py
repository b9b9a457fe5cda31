"""The whole server, asked by NVIDIA's own client: what it draws, what it refuses, and what it survives.

The tests that hurt the server come last.
"""

import json
import math
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

import steering
from exporters.network import OnnxNetwork
from protos.card import load_card
from protos.tiltserve.v1 import fleet_pb2, fleet_pb2_grpc
from tests import networks
from tests.e2e.conftest import QUEUE_ROWS, REPLICAS, Server, tiltserve, until
from tests.unmodified import inferred, tensors

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

F = np.float32
INVALID = "INVALID_ARGUMENT"
MIXES = (
    "output 'x0': expected a row that depends on itself alone, got one that changes with the other rows of its call, "
    "from node ReduceMean 'over_rows'"
)
LONG = {"samples": 1500, "steps": 1000, "solver": "euler", "seed": 3}
"""More than ten seconds on one replica."""

Client: TypeAlias = Any  # tritonclient has no types
Array: TypeAlias = NDArray[Any]


def infer(
    client: Client,
    model: str,
    inputs: dict[str, Array] | None = None,
    outputs: list[str] | None = None,
    **parameters: Any,
) -> tuple[dict[str, Array], dict[str, Any]]:
    requested = None if outputs is None else [triton.InferRequestedOutput(name) for name in outputs]
    result = client.infer(model, tensors(inputs or {}), outputs=requested, parameters=parameters, client_timeout=120)
    answer = inferred(result)
    return answer.outputs, answer.parameters


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """The gRPC status and the one line of a call that must fail."""
    with pytest.raises(InferenceServerException) as caught:
        call()
    text = caught.value.message()
    assert "\n" not in text
    return caught.value.status().removeprefix("StatusCode."), text


def replicas(server: Server) -> list[fleet_pb2.Replica]:
    with grpc.insecure_channel(server.grpc) as channel:
        return list(fleet_pb2_grpc.FleetStub(channel).ListModels(fleet_pb2.ListModelsRequest(), timeout=20).replicas)


def page(server: Server) -> dict[str, list[Any]]:
    """The samples of the metrics page by name, of all replicas: the front leaves out those that answer late."""

    def whole() -> dict[str, list[Any]]:
        with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        found: dict[str, list[Any]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample)
        return found if len(found.get("tiltserve_backlog_rows", [])) == REPLICAS else {}

    return until(whole, 120, "all replicas' metrics")  # as long as a lost one may take to be replaced


def backlogs(server: Server) -> dict[str, float]:
    """Rows by replica id, as they are now: the fleet's list is up to 1.5 s old."""
    return {each.labels["replica_id"]: each.value for each in page(server)["tiltserve_backlog_rows"]}


def backlog(server: Server) -> float:
    return sum(backlogs(server).values())


def total(samples: dict[str, list[Any]], name: str, **labels: str) -> float:
    return sum(each.value for each in samples.get(name, []) if labels.items() <= each.labels.items())


def near(samples: Array, mode: int) -> float:
    """The share of samples that lie at one of the ring's components."""
    return float(np.mean(np.linalg.norm(samples - networks.modes().numpy()[mode], axis=1) < 1))


def test_a_request_is_watched_from_the_front_to_the_replica(server: Server, client: Client):
    trace_id, parent = os.urandom(16).hex(), os.urandom(8).hex()
    headers = {"traceparent": f"00-{trace_id}-{parent}-01", "x-request-id": f"watched-{parent}"}
    client.infer("rings", [], parameters={"samples": 2, "steps": 5}, headers=headers, client_timeout=120)
    quiet = {"traceparent": f"00-{os.urandom(16).hex()}-{parent}-00", "x-request-id": f"quiet-{parent}"}
    client.infer("rings", [], parameters={"samples": 2, "steps": 5}, headers=quiet, client_timeout=120)
    assert server.collector is not None
    collector = server.collector
    until(lambda: len(collector.of(trace_id)) == 10, 30, "the spans")  # sent every five seconds
    spans = {(service, span.name): span for service, span in collector.of(trace_id)}
    front, replica = spans["tiltserve-front", "ModelInfer"], spans["tiltserve-replica", "ModelInfer"]
    assert front.parent_span_id.hex() == parent
    assert spans["tiltserve-front", "forward"].parent_span_id == front.span_id
    assert replica.parent_span_id == spans["tiltserve-front", "forward"].span_id
    assert spans["tiltserve-replica", "network rings"].parent_span_id == replica.span_id
    told = {each.value.string_value for _, span in collector.spans for each in span.attributes}
    assert f"watched-{parent}" in told
    assert f"quiet-{parent}" not in told  # its caller wanted no trace
    until(lambda: f"request=watched-{parent}" in server.errors.read_text(), 10, "the line of the call")
    (line,) = [each for each in server.errors.read_text().splitlines() if f"request=watched-{parent}" in each]
    assert f" trace={trace_id} " in line
    assert " method=ModelInfer model=rings version=1 status=OK rows=10 " in line


def lasting(client: Client, seconds: float, **parameters: Any) -> dict[str, Any]:
    """The parameters with so many samples and steps that a request takes about `seconds` here and now."""

    def measured() -> float:
        begin = time.monotonic()
        infer(client, "rings", samples=64, steps=200, **parameters)
        return time.monotonic() - begin

    # the first request on a replica may take longer, and with one more than replicas one is no first
    steps = 200 * seconds / min(measured() for _ in range(REPLICAS + 1))
    most = QUEUE_ROWS // 64_000
    groups = int(np.clip(np.ceil(steps / 1000), 1, most))  # of 64 samples, which run one after another
    return parameters | {"samples": 64 * groups, "steps": int(np.clip(steps / groups, 50, 1000))}


def test_the_ready_line_names_what_is_served_and_the_log_what_is_not(server: Server):
    assert server.models == [
        "nan", "nearness", "rings", "rings.network", "stranger", "stranger.network", "stripes", "stripes.network",
        "trusted", "trusted.network",
    ]  # fmt: skip
    warnings = [line for line in server.errors.read_text().splitlines() if " is not served: " in line]
    assert len(warnings) == 3
    misfit, mixing, torn = warnings
    assert mixing.startswith("warning: model 'mixing' is not served: ")
    assert mixing.endswith(f"mixing/1/model.onnx: {MIXES} (--trust mixing serves it all the same)")
    assert misfit.startswith("warning: model 'misfit' is not served: ")
    assert misfit.endswith("input 'x': the card says float32 [3, 4, 4], the graph float32 [1, 4, 4]")
    assert torn.startswith("warning: model 'torn' is not served: ")
    assert "expected a complete ONNX graph, got: " in torn
    assert not server.grpc.endswith(":0")
    assert not server.metrics.endswith(":0")


def test_live_ready_and_metadata(server: Server, client: Client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("rings")
    assert client.is_model_ready("rings.network")
    for broken in ("torn", "misfit", "mixing", "nothing"):
        assert not client.is_model_ready(broken)
    assert client.get_server_metadata().name == "tiltserve"
    rings = client.get_model_metadata("rings")
    assert [(each.name, each.datatype, list(each.shape)) for each in rings.outputs] == [
        ("samples", "FP32", [-1, 2]),
        ("rewards", "FP32", [-1]),
        ("log_likelihood", "FP32", [-1]),
        ("standard_error", "FP32", [-1]),
        ("denoised", "FP32", [-1, 2]),
        ("states", "FP32", [-1, 2, 2]),
    ]
    stranger = client.get_model_metadata("stranger.network")
    assert [(each.name, list(each.shape)) for each in stranger.inputs] == [("noisy", [-1, 2]), ("noise_level", [-1, 1])]


def test_plain_samples(client: Client):
    outputs, parameters = infer(client, "rings", samples=64, seed=7)
    assert outputs["samples"].shape == (64, 2)
    assert outputs["samples"].dtype == F
    assert list(outputs) == ["samples"]
    assert (parameters["seed"], parameters["network_rows"], parameters["reward_rows"]) == (7, 64 * 20, 0)
    assert (parameters["solver"], parameters["steering"], parameters["warnings"]) == ("dpmpp_2m", "none", "")
    assert max(near(outputs["samples"], mode) for mode in range(networks.MODES)) < 0.4
    assert sum(near(outputs["samples"], mode) for mode in range(networks.MODES)) > 0.95


def test_samples_are_those_of_the_notebook(server: Server, client: Client):
    """steering.run on the same folder, in this process."""
    folder = server.root / "rings"
    card = load_card(folder / "card.yaml")
    network = OnnxNetwork(folder / "1" / "model.onnx", card, threads=1)
    plan = steering.plan("heun", path=network.path, steps=9, prediction="x0")
    expected = steering.run(plan, network, (21, 2), 11)
    outputs, _ = infer(client, "rings", samples=21, seed=11, solver="heun", steps=9)
    assert outputs["samples"].tobytes() == expected.numpy().tobytes()


@pytest.mark.parametrize("solver", sorted(set(steering.solvers) - {"searched"}))
def test_every_solver_gives_the_bytes_of_the_notebook(server: Server, client: Client, solver: str):
    folder = server.root / "rings"
    network = OnnxNetwork(folder / "1" / "model.onnx", load_card(folder / "card.yaml"), threads=1)
    plan = steering.plan(solver, path=network.path, steps=5, prediction="x0")
    expected, report = steering.run(plan, network, (5, 2), 3, report=True)
    outputs, parameters = infer(client, "rings", samples=5, seed=3, solver=solver, steps=5)
    assert outputs["samples"].tobytes() == expected.numpy().tobytes()
    assert parameters["network_rows"] == report.network_rows


def test_data_to_noise_and_back(client: Client):
    """The flow run backwards and forwards again, and on another path in between: the same samples."""
    drawn, _ = infer(client, "rings", samples=6, seed=1, solver="dpmpp_3m", steps=200)
    x = drawn["samples"]
    noise, _ = infer(client, "rings", {"x_init": x}, samples=6, solver="dpmpp_3m", steps=200, reverse=True)
    assert 0.5 < noise["samples"].std() < 2
    back, _ = infer(client, "rings", {"x_init": noise["samples"]}, samples=6, solver="dpmpp_3m", steps=200)
    assert np.abs(back["samples"] - x).max() < 0.01
    # on edm the first state is x / alpha, and so is the last
    assert networks.RINGS.t_range is not None
    last, first = (1 - t for t in networks.RINGS.t_range)
    start = {"x_init": noise["samples"] / F(first)}
    other, parameters = infer(client, "rings", start, samples=6, solver="dpmpp_3m", steps=200, path="edm")
    assert np.abs(other["samples"] * last - x).max() < 0.01
    assert parameters["warnings"] == ""


def test_steered_on_another_path(client: Client):
    request: dict[str, Any] = {"samples": 32, "seed": 7, "reward": "nearness", "reward_mode": 3, "beta": 0.2}
    outputs, _ = infer(client, "rings", path="vp_linear", **request)
    assert near(outputs["samples"], 3) > 0.9


def test_steered_samples(client: Client):
    plain, free = infer(client, "rings", samples=64, seed=7)
    outputs, parameters = infer(client, "rings", samples=64, seed=7, reward="nearness", reward_mode=3, beta=0.2)
    assert near(plain["samples"], 3) < 0.4
    assert near(outputs["samples"], 3) > 0.95
    assert outputs["rewards"].shape == (64,)
    distances = ((outputs["samples"] - networks.modes().numpy()[3]) ** 2).sum(axis=1)
    assert np.allclose(outputs["rewards"], -distances, atol=1e-4)
    assert parameters["network_rows"] == free["network_rows"]
    assert parameters["reward_rows"] > 0
    assert parameters["steering"] == "doob"
    assert parameters["ess"] > 1
    only, _ = infer(client, "rings", None, ["rewards"], samples=3, seed=7, reward="nearness", reward_mode=3)
    assert list(only) == ["rewards"]


def test_a_built_in_reward_takes_a_tensor(client: Client):
    direction = np.array([[10, 0]], F)
    outputs, _ = infer(client, "rings", {"reward_direction": direction}, samples=32, seed=1, reward="linear")
    assert near(outputs["samples"], 0) > 0.9
    assert np.allclose(outputs["rewards"], 10 * outputs["samples"][:, 0], rtol=1e-5)


def test_rewards_put_together(client: Client):
    """Two modes by one expression, as often as each other: the rings' components have equal weights."""
    text = "logsumexp(nearness(mode=1), nearness)"
    request: dict[str, Any] = {"samples": 200, "seed": 4, "beta": 0.2, "reward": text, "reward_mode": 5}
    outputs, parameters = infer(client, "rings", **request)
    shares = [near(outputs["samples"], mode) for mode in (1, 5)]
    assert sum(shares) > 0.95
    assert 0.36 < shares[0] < 0.64  # 4 standard deviations of a fair coin
    assert parameters["fingerprint"] != infer(client, "rings", **(request | {"reward": "nearness"}))[1]["fingerprint"]
    for _ in range(4):  # two replicas take turns
        assert infer(client, "rings", **request)[0]["samples"].tobytes() == outputs["samples"].tobytes()


def test_conditioning_on_an_event(client: Client):
    """A half-space through the middle of a mode, by its name and as the threshold of a linear reward: the same law."""
    request: dict[str, Any] = {"samples": 64, "seed": 2}
    direction = {"reward_direction": np.array([1, 0], F)}
    named, _ = infer(client, "rings", direction, reward="half_space", reward_threshold=2.0, **request)
    by_hand, _ = infer(client, "rings", direction, reward="linear", threshold=2.0, **request)
    assert named["samples"].tobytes() == by_hand["samples"].tobytes()
    assert np.array_equal(named["rewards"], named["samples"][:, 0])
    assert np.mean(named["rewards"] >= 2) > 0.85
    assert np.mean(infer(client, "rings", **request)[0]["samples"][:, 0] >= 2) < 0.2


@pytest.mark.parametrize(
    ("method", "parameters", "rows", "least"),
    [
        ("doob", {"particles": 8}, 20, 0.95),
        ("doob", {"posterior": "mixture"}, 20, 0.8),
        ("doob", {"posterior": "rollout", "particles": 8, "rollout_steps": 8}, 20 * 65, 0.5),
        ("smc", {"population": 32, "solver": "sde_dpmpp_2m"}, 20, 0.95),
        ("smc", {"population": 32, "inner": "none", "solver": "ddim", "eta": 1.0, "keep": 8}, 80, 0.8),
        ("best_of", {"chains": 12}, 240, 0.5),  # 1 - (7/8)^12 is 0.8
        ("svdd", {"candidates": 6, "solver": "ddim", "eta": 1.0}, 120, 0.4),
        ("fk_steering", {"population": 12, "solver": "sde_dpmpp_2m"}, 240, 0.4),
        ("doit", {"solver": "ddim", "eta": 1.0, "chains": 8}, 160, 0.4),
        ("bank_resampling", {}, 0, 0.95),
    ],
)
def test_every_steering_method(
    server: Server, client: Client, method: str, parameters: dict[str, Any], rows: int, least: float
):
    """It comes closer to a mode, costs what it says, and is the same on both replicas."""
    request: dict[str, Any] = {"samples": 32, "seed": 7, "steering": method, "reward": "nearness", "reward_mode": 5}
    request |= parameters | ({} if method in ("best_of", "doit") else {"beta": 0.2})

    def asked() -> tuple[dict[str, Array], dict[str, Any], list[float]]:
        before = page(server)
        outputs, said = infer(client, "rings", **request)
        after = page(server)
        kinds = (("rings", "network"), ("nearness", "reward"))
        counts = [[total(each, "tiltserve_rows_total", model=m, kind=k) for m, k in kinds] for each in (before, after)]
        steered = [total(each, "tiltserve_steering_total", model="rings", method=method) for each in (before, after)]
        assert steered[1] - steered[0] == 1
        return outputs, said, [b - a for a, b in zip(*counts, strict=True)]

    answers = [asked() for _ in range(4)]  # two replicas take turns
    outputs, said, _ = answers[0]
    assert near(outputs["samples"], 5) > least
    for other, same, counted in answers:
        assert same == said
        assert {k: v.tobytes() for k, v in other.items()} == {k: v.tobytes() for k, v in outputs.items()}
        setup = [each - said[name] for each, name in zip(counted, ("network_rows", "reward_rows"), strict=True)]
        # whoever is first on a replica pays for the target
        assert setup in ([0, 0], [said["setup_rows"], said["setup_reward_rows"]])
    assert said["steering"] == method
    assert said["network_rows"] <= 32 * rows
    assert said["network_rows"] > 0.6 * 32 * rows or rows == 0
    report = json.loads(said["report"])
    assert report["distinct"] == len(np.unique(outputs["samples"], axis=0))
    assert (report["distinct"] < 32) == ("samples are distinct" in said["warnings"])


def test_a_population_is_one_unit(client: Client):
    """Whole populations are the same in a smaller request; samples that share one lean on each other."""
    request: dict[str, Any] = {"seed": 3, "steering": "smc", "reward": "nearness", "reward_mode": 4, "beta": 0.5}
    request |= {"solver": "sde_dpmpp_2m", "steps": 10, "population": 24, "keep": 12}
    whole, said = infer(client, "rings", samples=36, **request)
    for samples in (12, 24, 30):
        part, _ = infer(client, "rings", samples=samples, **request)
        assert part["samples"].tobytes() == whole["samples"][:samples].tobytes()
    assert said["network_rows"] == 3 * 24 * 10
    assert len(json.loads(said["report"])["population_ess"]) == 11
    assert np.isfinite(said["log_z"])


def test_a_rare_event_is_reached(client: Client):
    """None of 512 stored samples is in the event, of probability 1/8 P(N(0, 1) > 8/3); a grown bank knows its odds."""
    request: dict[str, Any] = {"samples": 64, "seed": 1, "reward": "linear", "threshold": 2.4}
    direction = {"reward_direction": np.array([1, 0], F)}
    shares = []
    for refresh in (False, True):
        outputs, said = infer(client, "rings", direction, refresh=refresh, **request)
        shares.append(float(np.mean(outputs["rewards"] >= 2.4)))
        assert json.loads(said["report"])["hits"] == pytest.approx(shares[-1], abs=1e-3)
    assert shares[0] < 0.5
    assert shares[1] > 0.9
    assert said["log_z"] == pytest.approx(math.log(math.erfc(8 / 3 / math.sqrt(2)) / 16), abs=0.2)
    assert said["warnings"] == ""
    assert said["setup_rows"] >= 20 * 1024
    assert near(outputs["samples"], 0) == 1


def test_a_bad_reward_hurts_only_its_own_request(client: Client):
    """Good and bad ones at once, over the same networks; the good ones' bytes are those of a quiet server."""
    request: dict[str, Any] = {"samples": 4, "steps": 10, "reward": "nearness + linear", "reward_mode": 2}
    up = {"reward_direction": np.array([0, 1], F)}
    quiet = [infer(client, "rings", up, seed=k, **request)[0]["samples"].tobytes() for k in range(6)]
    answers: dict[tuple[str, int], Any] = {}
    done = threading.Semaphore(0)

    def arrived(key: tuple[str, int], result: triton.InferResult, error: InferenceServerException | None) -> None:
        answers[key] = error or result.as_numpy("samples").tobytes()
        done.release()

    for k in range(6):
        for kind, other in (("good", {}), ("nan", {"reward": "nearness + nan"}), ("index", {"reward_mode": 9})):
            client.async_infer(
                "rings", tensors({} if kind == "nan" else up), partial(arrived, (kind, k)),
                parameters={"seed": k, **request, **other},
            )  # fmt: skip
    for _ in range(18):
        assert done.acquire(timeout=60)
    assert [answers["good", k] for k in range(6)] == quiet
    for k in range(6):
        nan, index = answers["nan", k], answers["index", k]
        assert nan.status() == "StatusCode.FAILED_PRECONDITION"
        assert nan.message() == "reward 'nan': expected finite values or -inf, got NaN"
        assert index.status() == "StatusCode.INVALID_ARGUMENT"


def test_conditions_and_guidance(client: Client):
    request: dict[str, Any] = {"samples": 3, "seed": 5, "steps": 6}
    label = {"label": np.array([2])}
    outputs, parameters = infer(client, "stripes", label, **request)
    guided, doubled = infer(client, "stripes", label, guidance=3.0, **request)
    free, _ = infer(client, "stripes", **request)
    assert outputs["samples"].shape == (3, 1, 4, 4)
    assert len({each["samples"].tobytes() for each in (outputs, guided, free)}) == 3
    assert (parameters["network_rows"], doubled["network_rows"]) == (18, 36)


def test_seeds_are_drawn_echoed_and_reproducible_on_every_replica(client: Client):
    steered: dict[str, Any] = {"samples": 3, "steps": 8, "reward": "nearness", "reward_mode": 1}
    first, parameters = infer(client, "rings", **steered)
    other, others = infer(client, "rings", **steered)
    assert parameters["seed"] != others["seed"]
    assert first["samples"].tobytes() != other["samples"].tobytes()
    for _ in range(8):  # two replicas take turns
        again, same = infer(client, "rings", seed=parameters["seed"], **steered)
        assert same == parameters
        assert {name: value.tobytes() for name, value in again.items()} == {
            name: value.tobytes() for name, value in first.items()
        }


def test_bytes_alone_equal_bytes_in_a_crowd(client: Client):
    solvers = ["dpmpp_2m", "heun", "ddim", "euler"]
    requests: list[dict[str, Any]] = [
        {"samples": 1 + i % 5, "seed": i, "solver": solvers[i % 4], "steps": 5 + i}
        | ({"reward": "nearness", "reward_mode": i % 8} if i % 3 == 0 else {})
        for i in range(24)
    ]
    alone = [infer(client, "rings", **request)[0]["samples"].tobytes() for request in requests]
    answers: dict[int, bytes] = {}
    done = threading.Semaphore(0)

    def arrived(index: int, result: triton.InferResult, error: Exception | None) -> None:
        answers[index] = b"" if error else result.as_numpy("samples").tobytes()
        done.release()

    for i, request in enumerate(requests):
        client.async_infer("rings", [], lambda result, error, i=i: arrived(i, result, error), parameters=request)
    for _ in requests:
        assert done.acquire(timeout=60)
    assert [answers[i] for i in range(len(requests))] == alone


def test_raw_and_plain_networks(server: Server, client: Client):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(33, 2)).astype(F)
    asked: list[tuple[str, str, dict[str, Array]]] = [
        ("rings.network", "rings", {"x": x, "t": rng.uniform(0.1, 0.9, 33).astype(F)}),
        ("nearness", "nearness", {"x": x, "mode": np.arange(33) % 8}),
    ]
    for model, name, feeds in asked:
        session = onnxruntime.InferenceSession(server.root / name / "1" / "model.onnx")
        (output,) = session.get_outputs()
        outputs, _ = infer(client, model, feeds)
        assert np.array_equal(outputs[output.name], session.run(None, feeds)[0])


def test_a_strangers_network_is_served_by_its_card_alone(server: Server, client: Client):
    """Plain torch export, other names, EDM path, x0 prediction; its bank and calibration are made in the background."""
    mode: dict[str, Any] = {"samples": 64, "seed": 2, "beta": 0.2, "reward": "nearness", "reward_mode": 6}
    assert sorted(path.name for path in (server.root / "stranger").iterdir()) == ["1", "card.yaml"]

    def complete() -> bool:
        warnings = {infer(client, "stranger", **(mode | {"samples": 1}))[1]["warnings"] for _ in range(4)}
        return not any("no bank" in each or "not calibrated" in each for each in warnings)

    until(complete, 120, "the bank")
    until(lambda: len({each.fingerprints["stranger"] for each in replicas(server)}) == 1, 10, "equal fingerprints")
    plain, _ = infer(client, "stranger", samples=64, seed=2)
    steered, parameters = infer(client, "stranger", **mode)
    assert sum(near(plain["samples"], each) for each in range(networks.MODES)) > 0.95
    assert near(plain["samples"], 6) < 0.4
    assert near(steered["samples"], 6) > 0.95
    assert parameters["fingerprint"].startswith(replicas(server)[0].fingerprints["stranger"])
    for _ in range(6):  # both replicas made the same bank
        assert infer(client, "stranger", **mode)[0]["samples"].tobytes() == steered["samples"].tobytes()


def test_a_network_whose_rows_are_not_independent_is_refused_or_warned_of(client: Client):
    status, text = refusal(lambda: infer(client, "mixing"))
    assert status == "UNAVAILABLE"
    assert text.endswith(f"mixing/1/model.onnx: {MIXES} (--trust mixing serves it all the same)")
    assert refusal(lambda: infer(client, "mixing.network"))[0] == "NOT_FOUND"
    said = f"network 'trusted' is served on trust: {MIXES}"
    assert said in infer(client, "trusted", samples=2, steps=2)[1]["warnings"]
    x = np.zeros((2, 2), F)
    assert infer(client, "trusted.network", {"x": x, "t": x[:, 0]})[1]["warnings"] == said
    density: dict[str, Any] = {
        "reward": "log_density",
        "reward_model": "trusted",
        "reward_steps": 2,
        "steering": "none",
    }
    assert said in infer(client, "rings", steps=2, **density)[1]["warnings"]
    assert "on trust" not in infer(client, "rings")[1]["warnings"]


@pytest.mark.parametrize(
    ("model", "inputs", "parameters", "status", "text"),
    [
        ("ring", {}, {}, "NOT_FOUND", "unknown model 'ring', expected one of misfit, mixing, nan, nearness, rings, "),
        ("torn", {}, {}, "UNAVAILABLE", "model 'torn' is unavailable: /"),
        ("misfit", {}, {}, "UNAVAILABLE", "model 'misfit' is unavailable: /"),
        ("rings", {}, {"solver": "dpm"}, INVALID, "unknown solver 'dpm'"),
        ("rings", {}, {"stps": 4}, INVALID, "unknown parameter 'stps', did you mean 'steps'?"),
        ("rings", {}, {"steps": 0}, INVALID, "parameter steps: expected greater than or equal to 1, got 0"),
        ("rings", {}, {"steps": -3}, INVALID, "parameter steps: expected greater than or equal to 1, got -3"),
        ("rings", {}, {"steps": 10**9}, INVALID, "parameter steps: expected less than or equal to 1000, "),
        ("rings", {}, {"samples": 4097}, INVALID, "parameter samples: expected less than or equal to 4096"),
        ("rings", {}, {"seed": -1}, INVALID, "parameter seed: expected greater than or equal to 0, got -1"),
        ("rings", {}, {"beta": float("nan")}, INVALID, "parameter 'beta': expected a finite number, got nan"),
        ("rings", {}, {"guidance": float("inf")}, INVALID, "parameter 'guidance': expected a finite number"),
        ("rings", {}, {"reward": "far"}, INVALID, "unknown reward 'far', expected one of "),
        ("rings", {}, {"reward": "nearness"}, INVALID, "reward 'nearness': expected argument 'reward_mode'"),
        ("rings", {}, {"reward": "nearness + far"}, INVALID, "unknown reward 'far', expected one of "),
        ("rings", {}, {"reward": "nearness +"}, INVALID, "reward 'nearness +': expected a reward's name or an expr"),
        ("rings", {}, {"reward": "nan", "threshold": 1.0, "beta": 2.0}, INVALID, "threshold: expected no beta"),
        ("rings", {}, {"reward": "nearness", "reward_mode": 9}, INVALID, "reward_mode of reward 'nearness': expected"),
        ("rings", {}, {"reward": "nan", "steering": "dps"}, INVALID, "steering 'dps': expected a model with a vector"),
        ("rings", {}, {"reward": "nan", "steering": "up"}, INVALID, "unknown steering 'up', expected one of doob, "),
        ("rings", {}, {"reward": "nan", "steering": "smc"}, INVALID, "solver 'dpmpp_2m' with eta 0 draws no noise"),
        ("rings", {}, {"reward": "nan", "chains": 4}, INVALID, "chains: steering 'doob' does not take it; those that"),
        ("rings", {}, {"steering": "svdd"}, INVALID, "steering 'svdd': expected a parameter reward beside it"),
        (
            "stripes", {"label": np.arange(2), "reward_direction": np.ones((1, 4, 4), F)},
            {"samples": 2, "reward": "linear", "steering": "smc", "solver": "sde_dpmpp_2m"}, INVALID,
            "label: expected the same for all samples of a population",
        ),
        (
            "stripes", {"reward_direction": np.ones((1, 4, 4), F)}, {"reward": "linear", "steering": "bank_resampling"},
            INVALID, "bank_resampling: expected a model without conditions, got 'stripes'",
        ),
        ("rings", {"y": np.ones(1, F)}, {}, INVALID, "unknown input 'y', expected one of grid, known, mask, x_init"),
        ("rings", {"x_init": np.ones((1, 3), F)}, {}, INVALID, "input 'x_init': expected FP32 [1, 2] "),
        ("rings", {"x_init": np.ones((1, 2))}, {}, INVALID, "input 'x_init': expected FP32 [1, 2] "),
        ("rings", {"x_init": np.full((1, 2), np.nan, F)}, {}, INVALID, "input 'x_init': expected finite"),
        ("rings", {"x_init": np.full((1, 2), np.inf, F)}, {}, INVALID, "input 'x_init': expected finite"),
        ("stripes", {"label": np.array([77])}, {}, INVALID, "condition 'label': expected 0..4, got 77"),
        ("rings.network", {}, {}, INVALID, "input 'x': expected float32 [n, 2], got none"),
        (
            "rings", {}, {"reward": "nan"}, "FAILED_PRECONDITION",
            "reward 'nan': expected finite values or -inf, got NaN",
        ),
        (
            "rings", {}, {"reward": "nan", "steering": "none"}, "FAILED_PRECONDITION",
            "reward 'nan': expected finite values or -inf, got NaN",
        ),
        (
            "rings", {}, {"samples": 4096, "steps": 1000}, "RESOURCE_EXHAUSTED",
            f"queue full: 0 network rows wait, 4096000 more were asked for, expected at most {QUEUE_ROWS} in all",
        ),
        ("rings", {}, {"timeout": "soon"}, INVALID, "parameter 'timeout': expected an integer >= 0"),
    ],
)  # fmt: skip
def test_bad_requests(client: Client, model, inputs, parameters, status: str, text: str):
    def ask() -> None:
        # the client keeps a parameter named timeout for itself
        request = pb.ModelInferRequest(model_name=model)
        for tensor in tensors(inputs):
            request.inputs.append(tensor._get_tensor())
            request.raw_input_contents.append(tensor._get_content())
        if "timeout" in parameters:
            request.parameters["timeout"].string_param = parameters["timeout"]
            try:
                client._client_stub.ModelInfer(request)
            except grpc.RpcError as error:
                raise InferenceServerException(error.details(), str(error.code())) from None
        else:
            infer(client, model, inputs, **parameters)

    came = refusal(ask)
    assert came[0] == status, came
    assert came[1].startswith(text), came


def test_unknown_versions_outputs_and_wrong_bytes(server: Server, client: Client):
    assert refusal(lambda: client.infer("rings", [], model_version="9")) == (
        "NOT_FOUND", "model 'rings': unknown version '9', expected one of 1"
    )  # fmt: skip
    status, text = refusal(lambda: infer(client, "rings", None, ["images"]))
    known = "samples, rewards, log_likelihood, standard_error, denoised, states"
    assert (status, text) == (INVALID, f"unknown output 'images', expected one of {known}")
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        short = pb.ModelInferRequest(model_name="rings", raw_input_contents=[b"\0" * 7])
        short.inputs.add(name="x_init", datatype="FP32", shape=[1, 2])
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(short, timeout=20)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "input 'x_init': expected 8 bytes for FP32 [1, 2], got 7"


def test_deadlines(server: Server, client: Client):
    """The client's own, and the parameter `timeout` (microseconds): what cannot be done in time is refused at once."""

    def paced() -> bool:
        infer(client, "rings", samples=64, steps=100)
        counts = [each for each in page(server)["tiltserve_network_seconds_count"] if each.labels["model"] == "rings"]
        return len(counts) == REPLICAS and min(each.value for each in counts) > 100

    until(paced, 60, "calls on every replica")  # estimates begin with bare calls and follow those that are run
    for deadline in ({"client_timeout": 3.0}, {"timeout": 3_000_000}):
        begin = time.monotonic()
        status, text = refusal(partial(client.infer, "rings", [], parameters=LONG, **deadline))
        assert status == "RESOURCE_EXHAUSTED"
        assert re.search(r"deadline in [0-3](\.\d+)? s cannot be met: the estimate is \S+ s, \S+ s if", text)
        assert time.monotonic() - begin < 2.5
    for deadline in ({"client_timeout": 1e-4}, {"timeout": 1}):  # past on arrival, or a moment before
        status, _ = refusal(partial(client.infer, "rings", [], **deadline))
        assert status in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
    until(lambda: backlog(server) == 0, 20, "freed rows")


def test_a_cancelled_request_frees_its_rows(server: Server, client: Client):
    ended = threading.Event()
    call = client.async_infer("rings", [], lambda result, error: ended.set(), parameters=LONG)
    until(lambda: backlog(server) > 100_000, 30, "running rows")
    call.cancel()
    assert ended.wait(20)
    until(lambda: backlog(server) == 0, 20, "freed rows")
    assert infer(client, "rings")[0]["samples"].shape == (1, 2)


def test_models_as_json_and_as_a_table(server: Server):
    fleet = server.fleet()
    models = {model["name"]: model for model in fleet["models"]}
    assert {name for name, model in models.items() if model["state"] == "READY"} == set(server.models)
    assert {name for name, model in models.items() if model["state"] == "UNAVAILABLE"} == {"torn", "misfit", "mixing"}
    assert "the card says float32 [3, 4, 4]" in models["misfit"]["reason"]
    assert models["rings"] == {"name": "rings", "kind": "sampler", "versions": ["1"], "state": "READY", "reason": ""}
    assert len({replica["pid"] for replica in fleet["replicas"]}) == 2
    assert {replica["pid"] for replica in fleet["replicas"]} <= {each.pid for each in server.descendants()}
    assert len({json.dumps(replica["fingerprints"]) for replica in fleet["replicas"]}) == 1
    table = tiltserve("models", "--address", server.grpc)
    assert table.returncode == 0
    assert all(name in table.stdout for name in models)


def test_the_sample_command_writes_what_the_client_gets(server: Server, client: Client, tmp_path: Path):
    file = tmp_path / "out.npz"
    drawn = tiltserve(
        "sample", "rings", "--address", server.grpc, "--reward", "2 * nearness", "--reward-mode", "4",
        "--threshold", "-0.1", "--seed", "6", "-n", "5", "-o", str(file),
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    outputs, _ = infer(client, "rings", samples=5, seed=6, reward="2 * nearness", reward_mode=4, threshold=-0.1)
    with np.load(file) as archive:
        assert archive["samples"].tobytes() == outputs["samples"].tobytes()
    told = tiltserve(
        "sample", "rings", "--address", server.grpc, "--reward", "nearness", "--reward-mode", "4", "--seed", "6",
        "-n", "8", "--steering", "smc", "--solver", "sde_dpmpp_2m", "--parameter", "population=8", "--parameter",
        "particles=4", "--report",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    lines = {line.split("  ")[0]: line for line in told.stdout.splitlines()}
    assert lines["steering"].split() == ["steering", "smc"]
    assert "local posterior mixture: a mixture's error is " in told.stdout
    assert {"log Z", "corrections", "distinct samples", "effective chains by stage"} <= set(lines)
    refused = tiltserve("sample", "rings", "--address", server.grpc, "--reward", "nearness", "--reward-mode", "99")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: INVALID_ARGUMENT: ")
    assert refused.stderr.count("\n") == 1


def test_every_listener_is_on_loopback(server: Server):
    listening = {
        connection.laddr.ip
        for process in server.descendants()
        for connection in process.net_connections("inet")
        if connection.status == "LISTEN"
    }
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert listening


def test_metrics(server: Server, client: Client):
    before = page(server)
    infer(client, "rings", samples=3, steps=10, seed=1, reward="nearness", reward_mode=0, posterior="gaussian")
    refusal(lambda: infer(client, "rings", steps=0))
    refusal(lambda: infer(client, "made-up"))
    after = page(server)

    def grown(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert grown("tiltserve_requests_total", model="rings", method="ModelInfer", code="OK") == 1
    assert grown("tiltserve_requests_total", model="rings", method="ModelInfer", code=INVALID) == 1
    assert grown("tiltserve_requests_total", model="", method="ModelInfer", code="NOT_FOUND") == 1
    assert "made-up" not in {each.labels["model"] for each in after["tiltserve_requests_total"]}
    assert grown("tiltserve_request_seconds_count", model="rings", method="ModelInfer") == 2
    assert grown("tiltserve_rows_total", model="rings", kind="network") == 30
    assert grown("tiltserve_rows_total", model="nearness", kind="reward") >= 3
    assert grown("tiltserve_network_seconds_count", model="rings") == 10
    assert grown("tiltserve_bucket_fill_count", model="rings") == 10
    assert grown("tiltserve_queue_seconds_count", model="rings") == 1
    assert grown("tiltserve_ess_count", model="rings") == 1
    assert grown("nv_inference_request_success", model="rings") == 1
    assert grown("nv_inference_request_failure", model="rings") == 1
    ids = {replica.id for replica in replicas(server)}
    assert {each.labels["replica_id"] for each in after["tiltserve_backlog_rows"]} == ids

    refusal(lambda: infer(client, "torn"))
    refusal(lambda: infer(client, "rings", reward="nan"))
    refusal(lambda: infer(client, "rings", samples=4096, steps=1000))
    call = client.async_infer("rings", [], lambda result, error: None, parameters=LONG)
    until(lambda: backlog(server), 20, "running rows")
    call.cancel()

    def counted(code: str) -> bool:
        seen, seen_before = (total(each, "tiltserve_requests_total", code=code) for each in (page(server), before))
        return seen > seen_before

    for code in ("UNAVAILABLE", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "CANCELLED"):
        until(partial(counted, code), 20, code)
    until(lambda: backlog(server) == 0, 20, "freed rows")


def test_killing_a_replica_during_sampling_changes_nothing_for_the_client(server: Server, client: Client):
    request = lasting(client, 8, seed=5, solver="ddim", eta=0.5, reward="nearness", reward_mode=2)
    expected, undisturbed = infer(client, "rings", **request)
    until(lambda: backlog(server) == 0, 20, "idle replicas")
    replays = total(page(server), "tiltserve_replays_total")
    before = {replica.id: replica.pid for replica in replicas(server)}
    assert len(before) == 2

    answer: dict[str, Any] = {}

    def ask() -> None:
        try:
            answer["outputs"], answer["parameters"] = infer(client, "rings", **request)
        except Exception as error:
            answer["error"] = error

    asking = threading.Thread(target=ask)
    asking.start()
    (busy,) = until(lambda: [key for key, rows in backlogs(server).items() if rows], 20, "a busy replica")
    victim = before[busy]
    assert victim in {each.pid for each in server.descendants()}
    assert asking.is_alive()
    os.kill(victim, signal.SIGKILL)
    assert infer(client, "rings", samples=2)[0]["samples"].shape == (2, 2)  # the other one goes on
    asking.join(120)
    assert not asking.is_alive()
    assert "error" not in answer, answer
    assert answer["parameters"] == undisturbed
    assert {name: value.tobytes() for name, value in answer["outputs"].items()} == {
        name: value.tobytes() for name, value in expected.items()
    }
    assert total(page(server), "tiltserve_replays_total") > replays

    def whole() -> list[dict[str, Any]]:
        fleet = server.fleet()
        ready = {model["name"] for model in fleet["models"] if model["state"] == "READY"}
        pids = {replica["pid"] for replica in fleet["replicas"]}
        return fleet["replicas"] if len(pids) == 2 and victim not in pids and ready == set(server.models) else []

    after = until(whole, 120, "a new replica")
    assert {replica["pid"] for replica in after} & set(before.values())  # the other one was left alone
    until(lambda: len({each.fingerprints["rings"] for each in replicas(server)}) == 1, 20, "equal fingerprints")
    for _ in range(4):
        again, _ = infer(client, "rings", **(request | {"samples": 2}))
        assert again["samples"].tobytes() == expected["samples"][:2].tobytes()


def test_an_interrupt_lets_running_requests_finish_and_leaves_nothing(server: Server, client: Client):
    request = lasting(client, 15, seed=9, solver="euler")
    answer: dict[str, Any] = {}
    asking = threading.Thread(target=lambda: answer.update(infer(client, "rings", **request)[0]))
    asking.start()
    until(lambda: backlog(server) or not asking.is_alive(), 20, "a running request")
    assert asking.is_alive()
    refused: dict[str, Any] = {}

    def late() -> None:
        """Ask on until refused: a draining server takes nothing new, also on connections it has."""
        begin = time.monotonic()
        while not refused and asking.is_alive():
            try:
                infer(client, "rings", samples=1, steps=1)
            except InferenceServerException as error:
                refused.update(status=error.status(), after=time.monotonic() - begin, while_running=asking.is_alive())

    asking_late = threading.Thread(target=late)
    asking_late.start()
    server.stop(signal.SIGINT)
    asking.join(20)
    asking_late.join(20)
    assert refused, "all were answered"
    assert refused["status"] == "StatusCode.UNAVAILABLE"
    assert refused["while_running"]
    assert refused["after"] < 10
    assert answer["samples"].shape == (request["samples"], 2)
    assert np.isfinite(answer["samples"]).all()
