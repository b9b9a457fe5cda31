"""Paths that are streamed pair by pair: whole, in order, bounded, and nothing else changes."""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from serving.engine.task import State
from serving.models.model import Sampler
from serving.requests import trajectory
from tests.serving.front.test_stream import STEERED, Stream, said
from tests.serving.live import Live, running, until


@pytest.fixture(scope="module")
def live(small_models: Path) -> Iterator[Live]:
    with running(small_models, answer_s=600.0) as live:
        yield live


@pytest.fixture(params=["front", "replica"])
def address(live: Live, request: pytest.FixtureRequest) -> str:
    return live.address if request.param == "front" else live.replicas[0]._address


def path(address: str, model: str = "rings", inputs: dict[str, Any] | None = None, **asked: Any) -> Any:
    """The pairs of a request, their parameters, and its last response."""
    with Stream(address) as stream:
        stream.ask("p", inputs, model, trajectory=True, **asked)
        *pairs, last = stream.all()
    return [each.as_numpy("states") for each in pairs], [said(each) for each in pairs], last


LABEL = {"label": np.array([2])}
STATE = {"x_init": np.array([[0.5, -1.0]], np.float32)}
WAYS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("rings", {}, {"samples": 3, "steps": 7, "solver": "heun"}),
    "steered": ("rings", {}, {"samples": 3, **STEERED}),
    "guided": ("stripes", LABEL, {"samples": 2, "steps": 5, "guidance": 3.0}),
    "to noise": ("rings", STATE, {"steps": 5, "reverse": True}),
    "to the estimate": ("rings", {}, {"samples": 2, "steps": 5, "end": "denoise"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_neighbouring_states_come_in_order_from_the_start_to_the_sample(live: Live, address: str, way: str):
    model, inputs, asked = WAYS[way]
    states, told, last = path(address, model, inputs, seed=4, **asked)
    n, steps = asked.get("samples", 1), asked["steps"]
    assert [(each["pair"], each["pairs"], each["first"]) for each in told] == [(i + 1, steps, 0) for i in range(steps)]
    assert all(each.shape == (n, 2, *states[0].shape[2:]) for each in states)
    for before, after in itertools.pairwise(states):
        assert np.array_equal(before[:, 1], after[:, 0])
    assert np.array_equal(states[-1][:, 1], last.as_numpy("samples"))
    outputs, plain = live.infer(inputs, model=model, seed=4, deterministic=True, **asked)
    assert last.as_numpy("samples").tobytes() == outputs["samples"].tobytes()
    digest = hashlib.sha256(outputs["samples"].tobytes()).hexdigest()
    assert said(last)["samples_sha256"] == plain["samples_sha256"] == digest


def test_pairs_say_where_they_are(live: Live):
    _, told, _ = path(live.address, samples=1, steps=6)
    model = live.replicas[0]._models.model("rings")
    assert isinstance(model, Sampler)
    nodes = model.plan("dpmpp_2m", 6).nodes
    assert [each["t"] for each in told] == [node.t for node in nodes[:-1]]
    assert [each["t_next"] for each in told] == [node.t for node in nodes[1:]]
    assert [each["rho_next"] for each in told] == [node.sigma / node.alpha for node in nodes[1:]]
    assert [each["alpha"] for each in told] == [node.alpha for node in nodes[:-1]]
    _, told, _ = path(live.address, samples=1, steps=4, path="trig_flow", end="denoise")
    assert told[-1]["rho_next"] == 0.0


def test_a_step_of_the_path_can_be_made_again(live: Live):
    """By whoever has the network: Euler's step between two states, z = x / alpha, dz / drho = (z - D) / rho."""
    states, told, _ = path(live.address, samples=3, steps=8, solver="euler")
    x, where = states[3], told[3]
    feeds = {"x": x[:, 0].copy(), "t": np.full(3, where["t"], np.float32)}
    denoised = live.infer(feeds, model="rings.network")[0]["x0"]
    z = x[:, 0] / where["alpha"]
    after = z + (where["rho_next"] - where["rho"]) * (z - denoised) / where["rho"]
    assert np.allclose(after * where["alpha_next"], x[:, 1], atol=1e-5)


def test_many_samples_are_drawn_in_groups_whose_paths_follow_one_another(live: Live):
    states, told, last = path(live.address, samples=70, steps=3, stream_samples=True, seed=2)
    whole = live.infer(samples=70, steps=3, seed=2)[0]["samples"]
    order = [(each["first"], each.get("pair", np.inf)) for each in told]
    assert order == sorted(set(order))
    found = [(each["first"], x) for each, x in zip(told, states, strict=True) if each.get("pair") == 3]
    assert b"".join(x[:, 1].tobytes() for _, x in found) == whole.tobytes()
    assert said(last)["samples_sha256"] == hashlib.sha256(whole.tobytes()).hexdigest()


def test_no_pair_is_lost_on_a_client_that_reads_late(live: Live):
    """Its request waits for it, and the engine serves others meanwhile."""
    steps, n, window = 250, 256, [("grpc.http2.bdp_probe", 0)]  # 64 KiB are on their way
    replica = live.replicas[0]
    with grpc.insecure_channel(replica._address, options=window) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = pb.ModelInferRequest(model_name="rings", id="late")
        for name, value in {"samples": n, "steps": steps, "seed": 1}.items():
            request.parameters[name].int64_param = value
        request.parameters["trajectory"].bool_param = True
        call = stub.ModelStreamInfer(iter([request]), timeout=600)
        until(lambda: any(task.state is State.PARKED for task in replica._engine._tasks), 300)
        live.infer(samples=2, steps=5)
        assert replica._engine.stalled_for() == 0
        parts = [each.infer_response for each in call]
    places = [(each.parameters["first"].int64_param, each.parameters["pair"].int64_param) for each in parts[:-1]]
    assert places == [(first, pair) for first in range(0, n, 64) for pair in range(1, steps + 1)]
    drawn = live.infer(samples=n, steps=steps, seed=1)[0]["samples"].tobytes()
    assert parts[-1].raw_output_contents[0] == drawn
    assert not replica._engine._tasks


def test_a_client_that_never_reads_is_given_up(small_models: Path):
    with running(small_models, answer_s=0.3) as live:
        replica, window = live.replicas[0], [("grpc.http2.bdp_probe", 0)]
        with grpc.insecure_channel(replica._address, options=window) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            request = pb.ModelInferRequest(model_name="rings", id="gone")
            for name, value in {"samples": 256, "steps": 250}.items():
                request.parameters[name].int64_param = value
            request.parameters["trajectory"].bool_param = True
            call = stub.ModelStreamInfer(iter([request]), timeout=600)
            until(lambda: live.metric("tiltserve_reclaimed_rows_total", model="rings") > 0, 300)
            assert not replica._engine._tasks
            *_, last = call
    expected = "stream: expected a client that reads within 0.3 s, got one that does not"
    assert last.error_message == f"[StatusCode.DEADLINE_EXCEEDED] {expected}"


def test_a_lost_replica_is_made_up_for_pair_by_pair(small_models: Path):
    with running(small_models, count=2, poll_s=5) as live, Stream(live.address) as stream:
        how: dict[str, Any] = {"samples": 60, "steps": 300, "seed": 3}
        stream.ask(trajectory=True, **how)
        parts = [stream.result() for _ in range(5)]
        live.lose_busy()
        parts += stream.all()
        assert [said(each)["pair"] for each in parts[:-1]] == list(range(1, 301))
        assert parts[-1].as_numpy("samples").tobytes() == live.infer(**how)[0]["samples"].tobytes()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"solver": "rk45"}, "trajectory: expected a solver of fixed steps, such as dpmpp_2m, got 'rk45', which"),
        ({"solver": "sde_dpmpp_2m"}, "deterministic: expected a plan without noise, got solver 'sde_dpmpp_2m'"),
        ({"preview_every": 2}, "preview_every: expected none beside trajectory, which shows every step, got one"),
        ({**STEERED, "steering": "best_of", "particles": None, "beta": None}, "trajectory: expected steering that"),
        ({"likelihood": "data"}, "trajectory: expected none beside likelihood"),
        ({"reverse": True}, "reverse: expected the data to start from in an input x_init, got none"),
    ],
)
def test_what_has_no_path_is_refused(live: Live, asked: dict[str, Any], expected: str):
    asked = {name: each for name, each in asked.items() if each is not None}
    with Stream(live.address) as stream:
        stream.ask(trajectory=True, **asked)
        assert expected in stream.error().message()
        stream.ask(outputs=["states"])
        assert "output 'states': expected a parameter trajectory beside it, got none" in stream.error().message()


def test_one_answer_cannot_hold_a_path(live: Live):
    expected = "trajectory: expected a request on ModelStreamInfer, got one on a call of one answer"
    assert live.refusal(trajectory=True) == ("INVALID_ARGUMENT", expected)


def test_states_of_large_samples_are_drawn_in_smaller_groups():
    assert trajectory.group_size(64, (1, 28, 28), 2**28) == 64
    assert trajectory.group_size(64, (4, 64, 64), 2**28) == 24
    assert trajectory.group_size(64, (3, 512, 512), 2**28) == 1
    with pytest.raises(Exception, match="expected two states of at most 1024 bytes, got 6272"):
        trajectory.group_size(64, (1, 28, 28), 1024)
