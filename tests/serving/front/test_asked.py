"""What the front reads of a request, and its network rows against those that a replica counts."""

import math
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

import steering
from protos.tiltserve.v1 import sampling_pb2
from serving.front import asked
from serving.models.model import Model
from serving.requests import job, methods
from serving.wire import kserve, received
from serving.wire.errors import RequestError
from serving.wire.kserve import InferRequest
from serving.wire.rows import BY_GRADIENTS, Draws
from serving.wire.tensors import tensor, value

F = np.float32
STEERED: dict[str, Any] = {"reward": "nearness", "reward_mode": 1}
NOISY: dict[str, Any] = {"solver": "sde_dpmpp_2m", **STEERED}
DDIM: dict[str, Any] = {"solver": "ddim", "eta": 1.0, **STEERED}
HALF_CHEETAH = "halfcheetah-medium-expert-v2"

BY_METHOD: dict[str, list[dict[str, Any]]] = {
    "doob": [STEERED, {"posterior": "rollout", "particles": 8, "rollout_steps": 3, **STEERED}],
    "smc": [
        {"samples": 10, **NOISY},
        {"samples": 100, "population": 32, "keep": 8, **NOISY},
        {"samples": 3, "population": 32, "keep": 5, "inner": "none", **NOISY},
        {"samples": 3, "population": 4, "posterior": "rollout", "particles": 4, **NOISY},
    ],
    "best_of": [{"samples": 8, **STEERED}, {"samples": 3, "chains": 12, **STEERED}],
    "svdd": [{"samples": 8, **DDIM}, {"candidates": 6, **DDIM}],
    "fk_steering": [{"samples": 5, **NOISY}, {"samples": 5, "population": 8, "keep": 2, **NOISY}],
    "doit": [DDIM, {"chains": 4, **DDIM}, {"preset": HALF_CHEETAH, **STEERED}],
    "bank_resampling": [{"samples": 9, **STEERED}],
    "none": [{"samples": 100, "steps": 50, **STEERED}],
}
STEERINGS = [{"steering": name, **each} for name, cases in BY_METHOD.items() for each in cases]
IMAGES = {"x_init": np.zeros((4, 2), F)}
GRID = np.linspace(0.999, 0.001, 9)


def message(inputs: dict[str, Any], parameters: dict[str, Any]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="m", model_version="3")
    for name, each in parameters.items():
        request.parameters[name].CopyFrom(kserve._encode_parameter(each))
    for name, each in inputs.items():
        request.inputs.add(name=name, datatype="FP32", shape=each.shape)
    return request


def sent(inputs: dict[str, Any], parameters: dict[str, Any]) -> asked.Asked:
    return asked.of(received.infer(message(inputs, parameters).SerializeToString()))


def rows(inputs: dict[str, Any], parameters: dict[str, Any], sampler: bool = True) -> int:
    return sent(inputs, parameters).rows(Draws() if sampler else None)


def counted(models: dict[str, Model], model: str, inputs: dict[str, Any], parameters: dict[str, Any]) -> int:
    return job.task_for(InferRequest(model, inputs=inputs, parameters=parameters), models[model], models).network_rows


@pytest.mark.parametrize(
    ("model", "inputs", "parameters"),
    [
        ("rings", {}, {}),
        ("rings", {}, {"samples": 7, "steps": 3, "solver": "ddim"}),
        *[("rings", {}, {"steps": 7, **parameters}) for parameters in STEERINGS],
        ("rings", {"known": np.zeros((1, 2), F), "mask": np.ones(2, np.bool_)}, {"samples": 3}),
        ("stripes", {"label": np.array([2])}, {"samples": 3, "guidance": 3.0}),
        ("stripes", {}, {"samples": 3, "guidance": 3.0}),
        ("stripes", {"label": np.array([2])}, {"samples": 3}),
        ("rings", IMAGES, {"samples": 4, "likelihood": "data", "probes": 3}),
        ("rings", IMAGES, {"samples": 4, "strength": 0.3}),
        ("rings", IMAGES, {"samples": 4, "strength": 0.29, "steps": 100, "solver": "heun"}),
        ("rings", IMAGES, {"samples": 4, "start_t": 0.5, "steps": 7}),
        ("rings", {"grid": GRID}, {"samples": 3}),
        ("rings", {"grid": GRID}, {"samples": 3, "end": "denoise"}),
        ("rings", {"grid": GRID}, {"samples": 3, "end": "denoise", "solver": "heun"}),
        ("rings", {"grid": GRID}, {"samples": 3, "end": "denoise", "solver": "rho_rk4", "steps": 8}),
        ("rings", {**IMAGES, "grid": GRID}, {"samples": 4, "end": "denoise", "strength": 0.5}),
        ("rings", {"grid": GRID}, {"samples": 3, "solver": "heun", **STEERED}),
        ("rings", {**IMAGES, "grid": GRID}, {"samples": 4, "strength": 0.5}),
        ("rings", {**IMAGES, "grid": GRID}, {"samples": 4, "likelihood": "data"}),
        ("rings.network", {"x": np.zeros((33, 2), F), "t": np.full(33, 0.5, F)}, {}),
    ],
)
def test_front_and_replica_count_the_same_rows(models: dict[str, Model], model: str, inputs: Any, parameters: Any):
    assert rows(inputs, parameters, not model.endswith(".network")) == counted(models, model, inputs, parameters)


def test_a_front_counts_two_rows_more_for_what_is_no_table(models: dict[str, Model]):
    """Its path may begin and end in a step of one row; a front does not know the path."""
    given = {"samples": 4, "strength": 0.5, "solver": "rk45", "budget": 50}
    assert rows(IMAGES, given) == counted(models, "rings", IMAGES, given) + 4 * 2


@pytest.mark.parametrize("parameters", STEERINGS, ids=lambda each: each["steering"])
def test_rows_are_those_of_steering(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch, parameters: Any):
    """`steering.most_network_rows` knows the method itself."""
    made = []

    def steering_for(*given: Any) -> methods.Steered:
        made.append((given[2].plan, methods.steering_for(*given)))
        return made[-1][1]

    monkeypatch.setattr(job, "steering_for", steering_for)
    count = counted(models, "rings", {}, parameters)
    (plan, steered), n = made[0], parameters.get("samples", 1)
    assert count == steering.most_network_rows(steered.steer, plan, n)


def test_every_method_is_compared():
    assert {*BY_METHOD, *BY_GRADIENTS} == {*methods.TAKES, "none"}  # those have tests of their own


def test_presets_have_the_chains_that_steering_gives_them(models: dict[str, Model]):
    for name, preset in steering.baselines.PRESETS.items():
        assert rows({}, {"steering": "doit", "preset": name, "steps": 5, **STEERED}) == 5 * preset.particles


def test_rows_under_an_interval_are_at_most_those_without_and_exact_on_the_replica(models: dict[str, Model]):
    given: dict[str, Any] = {"samples": 3, "guidance": 3.0, "guidance_low": 0.3, "guidance_high": 0.6, "steps": 10}
    assert rows({}, given) == 3 * 20
    plan = models["stripes"].plan("dpmpp_2m", 10)  # type: ignore[union-attr]
    acts = sum(0.3 <= stage.t <= 0.6 for stage in plan.stages)
    assert 0 < acts < 10
    assert counted(models, "stripes", {}, given) == 3 * (10 + acts)


def test_a_stream_brings_a_grid_too():
    sample = sampling_pb2.SampleRequest(model="m")
    sample.inputs["grid"].CopyFrom(tensor(GRID))
    stream = sampling_pb2.InteractiveRequest(sample=sample).SerializeToString()
    assert asked.of(received.sample(stream), "client").rows(Draws()) == 8


def test_nonsense_counts_as_the_default():
    wrong: list[dict[str, Any]] = [
        {"samples": -4},
        {"steps": "many"},
        {"samples": 2.5},
        {"solver": "none"},
        {"steps": True},
        {"samples": 2**62, "steps": 2**62},
        {"population": 3, "steering": "", "likelihood": "no"},
        {"solver": "pc", "steps": 10, "corrections": "some"},
        {"solver": "pc", "steps": 10, "corrections": math.nan},
        {"solver": "pc", "steps": 10, "corrections": -(10**18)},
        {"solver": "pc", "steps": 10, "corrections": True},
        {"strength": 0.0},
        {"strength": "half"},
        {"guidance_rescale": 7},
    ]
    for parameters in wrong:
        assert rows({}, parameters) == 20
    for budget in (math.inf, -math.inf, -1, False):
        assert rows({}, {"solver": "rk45", "budget": budget}) == rows({}, {"solver": "rk45"})
    assert rows({}, {"solver": "rk45", "budget": 1e300}) == 2**31
    assert rows({}, {}, sampler=False) == 1
    assert rows({"x": np.zeros((0, 3))}, {}, sampler=False) == 1
    for grid in (np.zeros(()), np.zeros(1), np.zeros((3, 3)), np.zeros(2000)):
        assert rows({"grid": grid}, {}) == 20
    assert rows({}, {"strength": 0.001}) == 1
    unset = message({}, {"samples": 3})
    unset.parameters["steps"].Clear()
    assert asked.of(received.infer(unset.SerializeToString())).rows(Draws()) == 60


def test_a_stream_asks_as_a_request_does():
    given: dict[str, Any] = {"samples": 3, "steering": "best_of", "chains": 2, "timeout": 2_000_000, "seed": 4}
    sample = sampling_pb2.SampleRequest(model="m", version="3")
    for name, each in given.items():
        sample.parameters[name].CopyFrom(value(each))
    stream = sampling_pb2.InteractiveRequest(sample=sample).SerializeToString()
    streamed, plain = asked.of(received.sample(stream), "client"), sent({}, {"reward": "client", **given})
    assert streamed == plain
    assert (plain.model, plain.version, plain.seeded, plain.timeout_s) == ("m", "3", True, 2.0)
    assert plain.rows(Draws()) == 3 * 20 * 2
    assert not sent({}, {}).seeded


@pytest.mark.parametrize("timeout", [-1, 1.5, True, "soon"])
def test_a_timeout_is_microseconds(timeout: Any):
    with pytest.raises(RequestError, match="parameter 'timeout': expected an integer >= 0"):
        _ = sent({}, {"timeout": timeout}).timeout_s
    assert sent({}, {"timeout": 0}).timeout_s is None
