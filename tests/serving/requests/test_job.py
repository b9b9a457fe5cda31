"""What a request may ask for, and what is said to one that asks for something else."""

import math
import re
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import yaml
from onnx import TensorProto
from tritonclient.grpc import service_pb2 as pb

from serving.backends import UnavailableError
from serving.backends.ort import OrtNetwork
from serving.engine.admission import DeadlineError
from serving.engine.engine import DeadlinePassedError, ExternalError, NetworkFailedError, QueueFullError
from serving.engine.task import Task
from serving.models.folders import scan
from serving.models.model import Model, Sampler
from serving.models.repository import load
from serving.requests import job
from serving.requests.admitted import STATE_BYTES
from serving.wire import kserve, received
from serving.wire.errors import RequestError
from serving.wire.kserve import InferRequest
from serving.wire.tensors import Parameter
from tests import networks

F = np.float32
ROW = np.zeros((1, 2), F)


def refusal(models: dict[str, Model], model: str, inputs: dict[str, Any] | None = None, **parameters: Any) -> str:
    """The line that is said to a request that must be refused as invalid before anything runs."""
    with pytest.raises(RequestError) as caught:
        job.task_for(InferRequest(model, inputs=inputs or {}, parameters=parameters), models[model], models)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "\n" not in caught.value.detail
    return caught.value.detail


def test_models_with_conditions_have_no_mean_to_start_from(models: dict[str, Model]):
    """Whether a condition was sent or not."""
    for inputs in ({}, {"label": np.array([2])}):
        said = refusal(models, "stripes", inputs, start_mean=True)
        assert said == "start_mean: expected a model without conditions, got 'stripes', which has some"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"stps": 5}, "unknown parameter 'stps', did you mean 'steps'?"),
        ({"zzz": 5}, "unknown parameter 'zzz', expected one of .*beta, "),
        ({"steps": 0}, "parameter steps: expected greater than or equal to 1, got 0"),
        ({"steps": -1}, "parameter steps: expected greater than or equal to 1, got -1"),
        ({"steps": 1001}, "parameter steps: expected less than or equal to 1000, got 1001"),
        ({"steps": 2**62}, "parameter steps: expected less than or equal to 1000, got 4611686018427387904"),
        ({"steps": "x"}, "parameter steps: expected a valid integer, got 'x'"),
        ({"steps": True}, "parameter steps: expected a valid integer, got True"),
        ({"steps": 20.0}, "parameter steps: expected a valid integer, got 20.0"),
        ({"samples": 0}, "parameter samples: expected greater than or equal to 1, got 0"),
        ({"samples": 4097}, "parameter samples: expected less than or equal to 4096, got 4097"),
        ({"samples": "4"}, "parameter samples: expected a valid integer, got '4'"),
        ({"seed": -1}, "parameter seed: expected greater than or equal to 0, got -1"),
        ({"seed": 0.5}, "parameter seed: expected a valid integer, got 0.5"),
        ({"solver": "dpm"}, r"unknown solver 'dpm'.* expected one of .*ddim.*dpmpp_2m.*euler.*heun"),
        ({"solver": 3}, "parameter solver: expected a valid string, got 3"),
        ({"grid": "log"}, r"unknown grid 'log'.* expected one of .*karras.*logsnr.*uniform"),
        ({"eta": -0.1}, "parameter eta: expected greater than or equal to 0, got -0.1"),
        (
            {"solver": "heun", "eta": 1.0},
            "eta: solver 'heun' takes eta 0 only, got 1.0; with eta above 0: .*ddim",
        ),
        (
            {"solver": "sde_dpmpp_2m", "eta": 0.0},
            "eta: solver 'sde_dpmpp_2m' is stochastic, .* without noise: dpmpp_2m",
        ),
        ({"solver": "heun", "churn": -1.0}, "churn: expected a number in 0..inf, got -1.0"),
        ({"solver": "heun", "churn": "much"}, "churn: expected a number in 0..inf, got 'much'"),
        ({"solver": "ddim", "churn": 1.0}, "churn: solver 'ddim' has no such option; solvers that have: euler, heun"),
        ({"chrn": 1.0}, "unknown parameter 'chrn', did you mean 'churn'?"),
        ({"path": "vp"}, "path: expected one of edm, .* to sample on, got 'vp'"),
        ({"reverse": True}, "reverse: expected the data to start from in an input x_init, got none"),
        ({"reverse": 1}, "parameter reverse: expected a valid boolean, got 1"),
        ({"solver": "euler_ancestral", "reverse": True}, "solver 'euler_ancestral' cannot run in reverse.*ddim"),
        ({"guidance": 2.0}, "guidance: model 'rings' has no conditions, expected 1.0, got 2.0"),
        ({"guidance": "2"}, "parameter guidance: expected a valid number, got '2'"),
        ({"guidance_keep": "label"}, "guidance_keep: expected none for a model without conditions, got 'label'"),
        ({"guidance_drop": "label"}, "guidance_drop: expected none for a model without conditions, got 'label'"),
        ({"steering": "doob"}, "steering 'doob': expected a parameter reward beside it, got none"),
        ({"steering": "smc"}, "steering 'smc': expected a parameter reward beside it, got none"),
        (
            {"steering": "dps", "reward": "nan"},
            "steering 'dps': expected a model with a vector-Jacobian graph .tiltserve export --vjp., got 'rings' "
            "without; classifier_guidance needs the reward's alone, and doob none$",
        ),
        ({"steering": "smk", "reward": "nan"}, "unknown steering 'smk', expected one of doob, smc, .*, none"),
        ({"posterior": "bnk"}, "parameter posterior: expected 'bank', .*, 'residuals' or 'rollout', got 'bnk'"),
        ({"reward": "nan", "rollout_steps": 1}, "parameter rollout_steps: expected greater than or equal to 2, got 1"),
        ({"reward": "nan", "refresh": 1}, "parameter refresh: expected a valid boolean, got 1"),
        (
            {"reward": "nan", "population": 8},
            "population: steering 'doob' does not take it; those that do: smc, fk_steering, tds$",
        ),
        (
            {"reward": "nan", "candidates": 8},
            "candidates: steering 'doob' does not take it; those that do: svdd, lgd_mc, tfg$",
        ),
        (
            {"reward": "nan", "steering": "best_of", "beta": 2.0},
            "beta: steering 'best_of' does not take it; those that do: doob, smc, svdd, fk_steering, bank_resampling, ",
        ),
        (
            {"reward": "nan", "steering": "svdd", "reward_budget": 99},
            "reward_budget: steering 'svdd' does not take it; those that do: doob$",
        ),
        (
            {"reward": "nan", "steering": "smc", "inner": "none", "posterior": "gaussian"},
            "posterior: steering 'smc' with inner 'none' does not take it; those that do: doob, smc$",
        ),
        (
            {"reward": "nan", "steering": "smc"},
            "solver 'dpmpp_2m' with eta 0 draws no noise, without which .*: expected eta above 0, such as sde_dpmpp_2m",
        ),
        (
            {"reward": "nan", "steering": "smc", "solver": "ddim", "eta": 1.0, "population": 4, "keep": 8},
            r"keep: expected an integer in 1..4, got 8",
        ),
        (
            {"reward": "nan", "steering": "smc", "population": 1},
            "parameter population: expected greater than or equal to 2, got 1",
        ),
        (
            {"reward": "nan", "steering": "smc", "inner": "none", "potential": "twisted"},
            "potential 'twisted': expected an inner method to take log h from, got none",
        ),
        (
            {"reward": "nan", "steering": "fk_steering", "potential": "twisted"},
            "potential 'twisted': expected an inner method to take log h from, got none",
        ),
        (
            {"reward": "nan", "steering": "doit"},
            "doit: expected solver 'ddim' with eta above 0, got 'dpmpp_2m' with 0",
        ),
        ({"reward": "nan", "steering": "doit", "preset": "ant"}, "unknown preset 'ant', expected one of halfcheetah-"),
        ({"reward": "nan", "steering": "svdd", "solver": "rk45"}, "solver 'rk45' cannot be steered: expected no steer"),
        ({"reward": "nan", "beta": 0.0}, "parameter beta: expected greater than 0, got 0.0"),
        ({"reward": "nan", "beta": -1}, "parameter beta: expected greater than 0, got -1"),
        ({"reward": "nan", "particles": 3}, "parameter particles: expected a multiple of 2, got 3"),
        ({"reward": "nan", "particles": 0}, "parameter particles: expected greater than or equal to 2, got 0"),
        ({"reward": "nan", "particles": 1026}, "parameter particles: expected less than or equal to 1024, got 1026"),
        ({"reward": "nan", "reward_budget": 0}, "parameter reward_budget: expected greater than or equal to 1, got 0"),
        ({"reward": 7}, "parameter reward: expected a valid string, got 7"),
        (
            {"reward": "nearest"},
            "unknown reward 'nearest', expected one of half_space, linear, log_density, masked_match, nan, nearness, "
            "norm_band, quadratic$",
        ),
        ({"reward": "rings.network"}, "unknown reward 'rings.network', expected one of half_space, linear, "),
        ({"reward": "rings"}, "unknown reward 'rings', expected one of half_space, linear, "),
        ({"reward_mode": 1}, "reward_mode: expected a parameter reward beside it, got none"),
        ({"reward": "nearness"}, "reward 'nearness': expected argument 'reward_mode', got none"),
        (
            {"reward": "nearness", "reward_mode": 1, "reward_label": 1},
            "reward 'nearness': unknown argument 'reward_label', expected reward_mode",
        ),
        ({"reward": "nan", "reward_mode": 1}, "reward 'nan': unknown argument 'reward_mode', expected none"),
        (
            {"reward": "nearness", "reward_mode": 1.5},
            r"reward_mode of reward 'nearness': expected int64 of shape \[\], got 1.5",
        ),
        (
            {"reward": "nearness", "reward_mode": "one"},
            r"reward_mode of reward 'nearness': expected int64 of shape \[\], got 'one'",
        ),
        (
            {"reward": "nearness", "reward_mode": True},
            r"reward_mode of reward 'nearness': expected int64 of shape \[\], got True",
        ),
        ({"reward": "linear"}, "reward 'linear': expected argument 'reward_direction', got none"),
        (
            {"reward": "linear", "reward_direction": 1.0},
            r"reward_direction of reward 'linear': expected an input FP32 \[2\], got 1.0",
        ),
    ],
)
def test_parameters(models: dict[str, Model], parameters: dict[str, Any], expected: str):
    assert re.match(expected, text := refusal(models, "rings", **parameters)), text


@pytest.mark.parametrize(
    ("inputs", "parameters", "expected"),
    [
        ({"noise": ROW}, {}, "unknown input 'noise', expected one of grid, known, mask, x_init"),
        ({"x_int": ROW}, {}, "unknown input 'x_int', did you mean 'x_init'?"),
        ({"label": np.array([1])}, {}, "unknown input 'label', expected one of grid, known, mask, x_init"),
        ({"x_init": ROW}, {"samples": 2}, r"input 'x_init': expected FP32 \[2, 2\] .*, got float32 \[1, 2\]"),
        ({"x_init": np.zeros((1, 3), F)}, {}, r"input 'x_init': expected FP32 \[1, 2\] .*, got float32 \[1, 3\]"),
        ({"x_init": np.zeros((1, 2))}, {}, r"input 'x_init': expected FP32 \[1, 2\] .*, got float64 \[1, 2\]"),
        ({"x_init": np.zeros((2,), F)}, {}, r"input 'x_init': expected FP32 \[1, 2\] .*, got float32 \[2\]"),
        ({"x_init": np.zeros((0, 2), F)}, {}, r"input 'x_init': expected FP32 \[1, 2\] .*, got float32 \[0, 2\]"),
        ({"reward_direction": ROW}, {}, "reward_direction: expected a parameter reward beside it, got none"),
        (
            {"reward_direction": np.zeros((2, 2), F)}, {"reward": "linear"},
            r"reward_direction of reward 'linear': expected an input FP32 \[2\], got float32 \[2, 2\]",
        ),
        (
            {"reward_direction": np.zeros(2)}, {"reward": "linear"},
            r"reward_direction of reward 'linear': expected an input FP32 \[2\], got float64 \[2\]",
        ),
        (
            {"reward_direction": ROW, "reward_scale": ROW}, {"reward": "linear"},
            r"reward_scale of reward 'linear': expected a number, got float32 \[1, 2\]",
        ),
        (
            {"reward_mode": np.zeros((2, 3), np.int64)}, {"reward": "nearness"},
            r"reward_mode of reward 'nearness': expected int64 of shape \[\], got int64 \[2, 3\]",
        ),
        (
            {"reward_mode": np.zeros(1, F)}, {"reward": "nearness"},
            r"reward_mode of reward 'nearness': expected int64 of shape \[\], got float32 \[1\]",
        ),
    ],
)  # fmt: skip
def test_inputs(models: dict[str, Model], inputs: dict[str, Any], parameters: dict[str, Any], expected: str):
    assert re.match(expected, text := refusal(models, "rings", inputs, **parameters)), text


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (np.array([1, 2]), r"condition 'label': expected int64 \[3\] or \[1\], got int64 \[2\]"),
        (np.array(1), r"condition 'label': expected int64 \[3\] or \[1\], got int64 \[\]"),
        (np.array([1, 2, 3], np.int32), r"condition 'label': expected int64 \[3\] or \[1\], got int32 \[3\]"),
        (np.array([[1], [2], [3]]), r"condition 'label': expected int64 \[3\] or \[1\], got int64 \[3, 1\]"),
        (np.array([-1]), r"condition 'label': expected 0..4, got -1"),
        (np.array([0, 4, -5]), r"condition 'label': expected 0..4, got -5"),
        (np.array([5]), r"condition 'label': expected 0..4, got 5"),
    ],
)
def test_conditions(models: dict[str, Model], label: np.ndarray, expected: str):
    assert re.match(expected, text := refusal(models, "stripes", {"label": label}, samples=3)), text


def test_a_condition_without_null_must_be_sent(models: dict[str, Model], small_models):
    stripes = models["stripes"]
    assert isinstance(stripes, Sampler)
    card = stripes.card.model_copy(
        update={"conditions": {"label": stripes.card.conditions["label"].model_copy(update={"null": None})}}
    )
    strict = Sampler("stripes", "1", card, stripes.path, stripes.network, "d")
    assert refusal({"stripes": strict}, "stripes", samples=2) == (
        "condition 'label': expected int64 [2, ...] or [1, ...], got none"
    )
    assert refusal({"stripes": strict}, "stripes", {"label": np.array([1])}, guidance=3.0) == (
        "guidance 3.0: expected a null value for label in the model's card, or an input null_label, got none"
    )


@pytest.mark.parametrize(
    ("inputs", "parameters", "expected"),
    [
        ({"x": ROW, "mode": np.array([1])}, {"steps": 3}, "model 'nearness' is a plain network .* got 'steps'"),
        ({"x": ROW, "mode": np.array([1]), "y": ROW}, {}, "unknown input 'y', expected one of mode, x"),
        ({"x": ROW}, {}, r"input 'mode': expected int64 \[n\], got none"),
        ({}, {}, r"input 'x': expected float32 \[n, 2\], got none"),
        (
            {"x": np.zeros((1, 3), F), "mode": np.array([1])},
            {},
            r"input 'x': expected float32 \[n, 2\], got .*\[1, 3\]",
        ),
        ({"x": np.zeros(2, F), "mode": np.array([1])}, {}, r"input 'x': expected float32 \[n, 2\], got float32 \[2\]"),
        (
            {"x": np.zeros((0, 2), F), "mode": np.zeros(0, np.int64)},
            {},
            r"input 'x': expected .*, got float32 \[0, 2\]",
        ),
        ({"x": ROW, "mode": np.array([1], np.int32)}, {}, r"input 'mode': expected int64 \[n\], got int32 \[1\]"),
        ({"x": ROW, "mode": np.array([1, 2])}, {}, r"inputs: expected one batch size, got \{'x': 1, 'mode': 2\}"),
    ],
)
def test_plain_networks(models: dict[str, Model], inputs: dict[str, Any], parameters: dict[str, Any], expected: str):
    assert re.match(expected, text := refusal(models, "nearness", inputs, **parameters)), text


def test_what_is_not_ours_is_let_through(models: dict[str, Model]):
    """Triton's clients send parameters of their own; time-out and priority are read elsewhere."""
    extras: dict[str, Parameter] = {"timeout": 1000, "priority": 1, "triton_enable_empty_final_response": True}
    for name, inputs in (("rings", {}), ("nearness", {"x": ROW, "mode": np.array([1])})):
        task = job.task_for(InferRequest(name, inputs=inputs, parameters=extras), models[name], models)
        task.program.close()


@pytest.mark.parametrize(
    ("parameters", "inputs", "rows"),
    [
        ({}, {}, 20),
        ({"samples": 4096, "steps": 1000, "solver": "heun"}, {}, 4096 * 1999),
        ({"samples": 3, "steps": 10, "beta": 2, "reward": "nearness", "reward_mode": 1}, {}, 30),
    ],
)
def test_rows_are_known_beforehand(models: dict[str, Model], parameters, inputs, rows: int):
    task = job.task_for(InferRequest("rings", inputs=inputs, parameters=parameters), models["rings"], models)
    assert task.network_rows == rows
    task.program.close()


def test_guidance_doubles_the_rows(models: dict[str, Model]):
    request = InferRequest("stripes", inputs={"label": np.array([1])}, parameters={"samples": 2, "guidance": 2.0})
    task = job.task_for(request, models["stripes"], models)
    assert task.network_rows == 80
    task.program.close()


def test_conditions_of_a_card_come_before_inputs_of_the_same_name(tmp_path: Path):
    """A network may be told a mask or a grid of its own, which are then no inpainting and no nodes."""
    told = ("grid", "mask", "null_mask")
    graph: dict[str, tuple[int, list[str | int]]] = {
        "x": (TensorProto.FLOAT, ["n", 2]),
        "t": (TensorProto.FLOAT, ["n"]),
        **{name: (TensorProto.INT64, ["n"]) for name in told},
    }
    networks.write_scale(tmp_path / "told", graph)
    label = {"dtype": "int64", "null": 0}
    card = networks.RINGS.model_dump(mode="json", exclude_none=True) | {"name": "told", "output": "output"}
    (tmp_path / "told" / "card.yaml").write_text(yaml.safe_dump(card | {"conditions": dict.fromkeys(told, label)}))
    model = load(scan(tmp_path)[0], lambda file: OrtNetwork(file, 1))
    inputs = {"grid": np.array([1]), "mask": np.array([2]), "null_mask": np.array([3]), "null_grid": np.array([0])}
    task = job.task_for(InferRequest("told", inputs=inputs, parameters={"guidance": 2.0}), model, {"told": model})
    assert task.network_rows == 40
    task.program.close()
    assert refusal({"told": model}, "told", {"mask": np.ones((1, 2), np.bool_)}) == (
        "condition 'mask': expected int64 [1] or [1], got bool [1, 2]"
    )


def test_conditions_count_as_memory_of_the_rows_that_hold_them(models: dict[str, Model]):
    def held(**parameters: Any) -> int:
        request = InferRequest("stripes", inputs={"label": np.array([1])}, parameters=parameters)
        task = job.task_for(request, models["stripes"], models)
        task.program.close()
        return task.bytes

    state = 16 * STATE_BYTES
    assert held(samples=3) == 3 * (state + 8)
    assert held(samples=3, guidance=2.0) == 3 * (state + 16)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_the_codec(bad: float):
    tensor = triton.InferInput("x_init", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.array([[0, bad]], F))
    message = pb.ModelInferRequest(
        model_name="rings", inputs=[tensor._get_tensor()], raw_input_contents=[tensor._get_content()]
    )
    for request, expected in (
        (message, "input 'x_init': expected finite numbers, got NaN or infinity"),
        (
            pb.ModelInferRequest(parameters={"beta": pb.InferParameter(double_param=bad)}),
            f"parameter 'beta': expected a finite number, got {bad}",
        ),
    ):
        with pytest.raises(RequestError) as caught:
            kserve.decode_request(received.infer(request.SerializeToString()))
        assert (caught.value.code, caught.value.detail) == (grpc.StatusCode.INVALID_ARGUMENT, expected)


def test_every_request_has_terms(models: dict[str, Model]):
    """Priority, deadline and determinism reach the engine, whatever the model."""
    feeds = {"x": ROW, "t": np.full(1, 0.5, F)}
    for model, inputs in (("rings", {}), ("rings.network", feeds)):

        def task(model: str = model, inputs: dict[str, Any] = inputs, **parameters: Any) -> Task:
            request = InferRequest(model, inputs=inputs, parameters=parameters)
            return job.task_for(request, models[model], models)

        assert (task().priority, task().deadline, task().deterministic) == (5, math.inf, False)
        assert [task(priority=each).priority for each in (0, 1, 5, 9)] == [5, 1, 5, 9]
        assert task(deterministic=True, timeout=3).deterministic
        request = InferRequest(model, inputs=inputs)
        assert job.task_for(request, models[model], models, deadline=12.5).deadline == 12.5
        for wrong in (-1, 10, 1.0, "1", True):
            assert re.fullmatch(
                rf"parameter priority: expected an integer in 1..9, or 0 for 5, got {wrong!r}",
                refusal(models, model, inputs, priority=wrong),
            )
        assert "deterministic: expected a valid boolean, got 1" in refusal(models, model, inputs, deterministic=1)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QueueFullError("full"), "RESOURCE_EXHAUSTED"),
        (DeadlineError("in about 9 s, asked for in 2 s"), "RESOURCE_EXHAUSTED"),
        (DeadlinePassedError("past"), "DEADLINE_EXCEEDED"),
        (ExternalError("no reply"), "UNAVAILABLE"),
        (UnavailableError("no answer"), "UNAVAILABLE"),
        (NetworkFailedError("failed"), "INTERNAL"),
        (ZeroDivisionError("0"), "INTERNAL"),
    ],
)
def test_what_a_failed_task_tells_its_caller(error: Exception, code: str):
    said = job.request_error(error)
    assert said.code.name == code
    assert str(error) in said.detail


@pytest.mark.parametrize("value", [1e39, -1e39, 1e308])
def test_parameters_are_finite_as_float32(models: dict[str, Model], value: float):
    for name in ("eta", "guidance", "threshold", "beta"):
        said = refusal(models, "rings", {}, **{"reward": "nearness", "reward_mode": 1, name: value})
        assert re.match(rf"parameter {name}: expected (less|greater) than or equal to ", said), said
    for solver, name in (("heun", "churn"), ("heun", "churn_max"), ("pc", "snr"), ("rk45", "rtol")):
        said = refusal(models, "rings", {}, solver=solver, **{name: value})
        assert re.match(rf"parameter {name}: expected a number of at most 3.40282e\+38, got ", said), said


def test_an_answer_must_fit_into_a_message(models: dict[str, Model]):
    """Else it would be drawn and then not be sent."""

    def refused(request: InferRequest, longest: int) -> str:
        with pytest.raises(RequestError) as caught:
            job.task_for(request, models[request.model], models, longest=longest)
        return caught.value.detail

    assert refused(InferRequest("rings", parameters={"samples": 101}), 8 * 100) == (
        "samples: expected at most 100 of shape [2] in an answer of 800 bytes, got 101"
    )
    feeds: dict[str, Any] = {"x": np.zeros((101, 2), F), "mode": np.zeros(101, np.int64)}
    assert refused(InferRequest("nearness", inputs=feeds), 4 * 100) == (
        "inputs: expected at most 100 rows, whose outputs fit into an answer of 400 bytes, got 101"
    )
    request = InferRequest("rings", parameters={"samples": 100})
    job.task_for(request, models["rings"], models, longest=8 * 100).program.close()


def test_sizes_come_before_ranges(models: dict[str, Model]):
    feeds = {"x": ROW, "mode": np.full(4_000_000, 9)}
    assert refusal(models, "nearness", feeds) == "inputs: expected one batch size, got {'x': 1, 'mode': 4000000}"
