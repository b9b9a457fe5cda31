"""What a request can ask for besides samples from noise, on a real engine: likelihoods, inpainting, given means."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto

import steering
from protos.card import Card, dump_card
from serving.backends.ort import OrtNetwork
from serving.models.folders import scan
from serving.models.model import Model, Sampler
from serving.models.repository import load
from serving.requests import job
from serving.wire.answer import Answer
from serving.wire.errors import RequestError
from serving.wire.kserve import InferRequest
from steering.paths import mean_reverting
from tests import networks
from tests.serving.conftest import MakeEngine

F = np.float32


def answer(
    make_engine: MakeEngine, models: dict[str, Model], name: str, inputs: dict[str, Any], **other: Any
) -> Answer:
    request = InferRequest(name, inputs=inputs, parameters=other)
    return make_engine().engine.submit(job.task_for(request, models[name], models)).result(60)


def log_density(x: torch.Tensor) -> torch.Tensor:
    """Of the rings: eight round Gaussians of equal weight."""
    square = ((x[:, None].double() - networks.modes()) ** 2).sum(-1) / networks.SPREAD**2
    return torch.logsumexp(-square / 2, 1) - np.log(networks.MODES * 2 * np.pi * networks.SPREAD**2)


def test_log_likelihoods_are_those_of_the_law(make_engine: MakeEngine, models: dict[str, Model]):
    x = networks.modes()[torch.arange(24) % 8] + networks.SPREAD * torch.randn(
        24, 2, generator=torch.Generator().manual_seed(0)
    )
    found = answer(
        make_engine, models, "rings", {"x_init": x.numpy()},
        samples=24, seed=1, steps=60, likelihood="data", probes=32,
    )  # fmt: skip
    assert found.parameters["network_rows"] == pytest.approx(24 * 60 * 4 * 65, rel=0.02)
    truth, spread = log_density(x), torch.from_numpy(found.outputs["standard_error"])
    error = (torch.from_numpy(found.outputs["log_likelihood"]) - truth).abs()
    assert bool((error < 0.02 + 5 * spread).all())
    assert float(spread.mean()) < 0.3
    assert float(error.mean()) < 0.2 * float((truth - truth.mean()).abs().mean())


def test_known_values_are_kept_and_the_rest_is_filled_in(make_engine: MakeEngine, models: dict[str, Model]):
    """x_0 = 2 leaves the component at (2, 0); projection is no exact posterior and lets its two neighbours in."""
    inputs = {"known": np.array([[2, 0]], F), "mask": np.array([True, False])}
    found = answer(make_engine, models, "rings", inputs, samples=70, seed=0, eta=1.0, steps=50)
    x = found.outputs["samples"]
    assert np.abs(x[:, 0] - 2).max() < 0.05
    assert np.abs(np.abs(x[:, 1:]) - [0, 2**0.5]).min(axis=1).max() < 0.6
    assert (np.abs(x[:, 1]) < 0.6).mean() > 0.45
    assert found.parameters["steering"] == "project"
    each = {**inputs, "known": np.repeat(inputs["known"], 70, axis=0)}
    again = answer(make_engine, models, "rings", each, samples=70, seed=0, eta=1.0, steps=50)
    assert again.outputs["samples"].tobytes() == x.tobytes()


def test_samples_of_a_mean_reverting_model_revert_to_the_means_sent(make_engine: MakeEngine, tmp_path: Path):
    card = Card(
        name="back",
        path={"kind": "mean_reverting", "sigma_inf": 0.5},
        prediction="eps",
        event_shape=(2,),
        output="output",
    )
    networks.write_scale(tmp_path / "back", {"x": (TensorProto.FLOAT, ["n", 2]), "t": (TensorProto.FLOAT, ["n"])})
    dump_card(card, tmp_path / "back" / "card.yaml")
    model = load(scan(tmp_path)[0], lambda file: OrtNetwork(file, 1))
    assert isinstance(model, Sampler)
    mean = np.array([[3, -3], [1, 2], [0, 0]], F)
    found = answer(make_engine, {"back": model}, "back", {"mean": mean}, samples=3, seed=4)
    path = mean_reverting(sigma_inf=0.5)
    plan = steering.plan("dpmpp_2m", path=path, steps=20, prediction="eps")
    expected = steering.run(plan, lambda x, t: x + x, (3, 2), 4, mean=torch.from_numpy(mean))
    assert np.allclose(found.outputs["samples"], expected.numpy(), rtol=1e-5, atol=1e-5)
    with pytest.raises(RequestError, match=r"input 'mean': expected FP32 \[2, 2\] or \[1, 2\] for a mean-reverting"):
        job.task_for(InferRequest("back", parameters={"samples": 2}), model, {})


ROW, MASK = np.ones((1, 2), F), np.array([True, False])


@pytest.mark.parametrize(
    ("inputs", "parameters", "complaint"),
    [
        ({}, {"likelihood": "data"}, "likelihood: expected the samples to judge in an input x_init, got none"),
        ({"x_init": ROW}, {"likelihood": "bits"}, "parameter likelihood: expected 'data' or 'sampler', got 'bits'"),
        ({"x_init": ROW}, {"likelihood": "data", "probes": 0}, "parameter probes: expected greater than or equal to 2"),
        (
            {"x_init": ROW},
            {"likelihood": "data", "reward": "nan"},
            "reward: expected none beside likelihood, got 'nan'",
        ),
        ({"x_init": ROW}, {"likelihood": "data", "solver": "rk45"}, "solver: expected none beside likelihood"),
        ({"x_init": ROW}, {"likelihood": "data", "reverse": True}, "reverse: expected none beside likelihood"),
        (
            {},
            {"solver": "pc", "steps": 1000, "corrections": 32},
            "'pc': expected at most 24000 network rows per sample",
        ),
        ({}, {"solver": "heun", "churn": 1.0, "churn_noise": 1e30}, "churn_noise: expected a number in 0..10"),
        ({}, {"path": "kinetic_optimal"}, "path: expected one of edm, .* to sample on, got 'kinetic_optimal'"),
        ({"known": ROW}, {}, "known and mask: expected both inputs or neither, got one"),
        ({"known": ROW, "mask": ROW}, {}, r"input 'mask': expected BOOL \[2\] or \[1, 2\] .*, got float32 \[1, 2\]"),
        ({"known": ROW, "mask": MASK}, {"reward": "nan"}, "known: expected no reward beside it, or steering 'none'"),
        ({"known": ROW, "mask": MASK}, {"solver": "rk45"}, "solver 'rk45' cannot be steered: expected"),
        ({"x_init": ROW}, {"reverse": True, "reward": "nan"}, "a plan in reverse cannot be steered: expected"),
        ({"mean": ROW}, {}, "unknown input 'mean', expected one of grid, known, mask, x_init"),
    ],
)
def test_what_cannot_be_asked_is_refused(models: dict[str, Model], inputs, parameters, complaint: str):
    with pytest.raises(RequestError, match=complaint):
        job.task_for(InferRequest("rings", inputs=inputs, parameters=parameters), models["rings"], models)


def test_an_adaptive_solver_that_runs_out_of_rows_says_so(make_engine: MakeEngine, models: dict[str, Model]):
    request = InferRequest("rings", parameters={"solver": "rk45", "rtol": 1e-6, "atol": 1e-6, "budget": 8})
    running = make_engine().engine.submit(job.task_for(request, models["rings"], models))
    with pytest.raises(steering.BudgetError) as caught:
        running.result(20)
    assert job.request_error(caught.value).code.name == "FAILED_PRECONDITION"


def test_guidance_has_no_law_of_data(models: dict[str, Model]):
    request = InferRequest(
        "stripes", inputs={"x_init": np.ones((1, 1, 4, 4), F)}, parameters={"likelihood": "data", "guidance": 2.0}
    )
    with pytest.raises(RequestError, match="guidance: a guided model has no law of its data"):
        job.task_for(request, models["stripes"], models)
