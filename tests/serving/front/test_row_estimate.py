"""Rows as the front guesses them against those that a replica counts."""

from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.front.row_estimate import rows_of
from serving.models.model import Model
from serving.requests import job
from serving.wire import kserve
from serving.wire.kserve import InferRequest

F = np.float32
STEERED: dict[str, Any] = {"reward": "nearness", "reward_mode": 1}


def message(inputs: dict[str, Any], parameters: dict[str, Any]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    for name, value in parameters.items():
        request.parameters[name].CopyFrom(kserve._encode_parameter(value))
    for name, value in inputs.items():
        request.inputs.add(name=name, datatype="FP32", shape=value.shape)
    return request


@pytest.mark.parametrize(
    ("model", "inputs", "parameters"),
    [
        ("rings", {}, {}),
        ("rings", {}, {"samples": 7, "steps": 3, "solver": "ddim"}),
        ("rings", {}, {"samples": 100, "steps": 50, **STEERED}),
        ("rings", {}, {"samples": 10, "steering": "smc", "population": 32, "solver": "sde_dpmpp_2m", **STEERED}),
        (
            "rings",
            {},
            {"samples": 8, "steering": "smc", "population": 32, "keep": 8, "solver": "sde_dpmpp_2m", **STEERED},
        ),
        ("rings", {}, {"samples": 8, "steering": "best_of", "chains": 12, **STEERED}),
        ("rings", {}, {"samples": 8, "steering": "svdd", "candidates": 6, "solver": "ddim", "eta": 1.0, **STEERED}),
        ("rings", {}, {"samples": 2, "steering": "fk_steering", "solver": "sde_dpmpp_2m", **STEERED}),
        ("rings", {}, {"samples": 2, "steering": "doit", "chains": 4, "solver": "ddim", "eta": 1.0, **STEERED}),
        ("rings", {}, {"samples": 2, "steering": "doit", "solver": "ddim", "eta": 1.0, **STEERED}),
        ("rings", {}, {"samples": 2, "posterior": "rollout", "particles": 8, **STEERED}),
        ("stripes", {"label": np.array([2])}, {"samples": 3, "guidance": 3.0}),
        ("stripes", {"label": np.array([2])}, {"samples": 3}),
        ("rings", {"x_init": np.zeros((4, 2), F)}, {"samples": 4, "likelihood": "data", "probes": 3}),
        ("rings.network", {"x": np.zeros((33, 2), F), "t": np.full(33, 0.5, F)}, {}),
    ],
)
def test_the_guess_is_near_the_count(models: dict[str, Model], model: str, inputs: Any, parameters: Any):
    task = job.task_for(InferRequest(model, inputs=inputs, parameters=parameters), models[model], models)
    guess = rows_of(message(inputs, parameters), sampler=not model.endswith(".network"))
    assert task.network_rows > 0
    assert guess == pytest.approx(task.network_rows, rel=0.35)


def test_solvers_of_several_rows_a_step(models: dict[str, Model]):
    for solver in ("heun", "dpm_solver_2", "dpm_solver_3", "euler"):
        parameters: dict[str, Any] = {"samples": 2, "steps": 30, "solver": solver}
        task = job.task_for(InferRequest("rings", parameters=parameters), models["rings"], models)
        assert rows_of(message({}, parameters), sampler=True) == pytest.approx(task.network_rows, rel=0.05)


def test_nonsense_counts_as_the_default():
    wrong: list[dict[str, Any]] = [
        {"samples": -4},
        {"steps": "many"},
        {"samples": 2.5},
        {"solver": "none"},
        {"steps": True},
    ]
    for parameters in wrong:
        assert rows_of(message({}, parameters), sampler=True) == 20
    assert rows_of(message({}, {"samples": 2**62, "steps": 2**62}), sampler=True) == 2**31
    assert rows_of(message({}, {}), sampler=False) == 1
    assert rows_of(message({"x": np.zeros((0, 3))}, {}), sampler=False) == 1
