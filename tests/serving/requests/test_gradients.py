"""Methods that steer by gradients, on a whole server: vector-Jacobian graphs beside networks and rewards."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import steering
from exporters.export import export_model
from protos.card import Card, Sample, dump_card, load_card
from protos.pipeline import Codec
from serving.backends import LoadError
from serving.backends.ort import OrtNetwork
from serving.engine.references import whole
from serving.engine.task import Evaluation
from serving.front.asked import Asked
from serving.models.described import sampler_state
from serving.models.folders import scan
from serving.models.model import Model, PlainModel
from serving.models.offline import open_sampler
from serving.models.pipeline import Coder
from serving.models.repository import load
from serving.requests.job import task_for
from serving.requests.methods import TAKES
from serving.rewards import bind
from serving.rewards.decoded import DecodedReward
from serving.rewards.external import ExternalReward
from serving.wire.kserve import InferRequest
from serving.wire.rows import BY_GRADIENTS
from steering import baselines
from steering.sampling.rows import answered
from tests.conditional import Gaussians
from tests.networks import TIMES
from tests.serving.live import Live, running

F = np.float32
D, WIDTH = 4, 0.5
MEAN = np.array([[1.0, -1.0, 0.5, 0.0]], F)
GIVEN = {"mean": MEAN, "width": np.array([WIDTH], F)}
DIRECTION = np.array([1.0, 2.0, 0.0, -1.0], F)
CARD = Card.model_validate(
    {
        "name": "gaussians",
        "path": {"kind": "rectified_flow"},
        "prediction": "velocity",
        "output_scale": -1,
        "t_range": [0.001, 0.999],
        "event_shape": [D],
        "conditions": {
            "mean": {"dtype": "float32", "shape": [D], "null": 0.0},
            "width": {"dtype": "float32", "shape": [], "guidance": "keep"},
        },
    }
)


class Backwards(nn.Module):
    """Minus the velocity of the flow whose estimates are `Gaussians`', as some networks are trained: x0 - eps."""

    def __init__(self) -> None:
        super().__init__()
        self.denoiser = Gaussians()

    def forward(self, x: Tensor, t: Tensor, mean: Tensor, width: Tensor) -> Tensor:
        return (self.denoiser(x, t, mean, width) - x) / t[:, None]


class Wish(nn.Module):
    """Minus the distance of a convolved sample of [1, 2, 2] to what is wished for, and something else beside it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.seen = nn.Conv2d(1, 3, 2, stride=2, padding=1)
        self.norm = nn.GroupNorm(1, 3)

    def forward(self, image: Tensor, wish: Tensor) -> tuple[Tensor, Tensor]:
        seen = functional.silu(self.norm(self.seen(image)))
        return seen, -(seen.mean(dim=(2, 3)) - wish).square().sum(dim=1)


class Decoder(nn.Module):
    """Latents [4] to pictures [1, 2, 2]."""

    def forward(self, latents: Tensor) -> Tensor:
        return latents.tanh().reshape(-1, 1, 2, 2) * 2


SIZES = (1, 3)


@pytest.fixture(scope="module")
def root(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sampler with a vector-Jacobian graph, and models without."""
    root = tmp_path_factory.mktemp("gradients")
    examples = {"x": torch.randn(4, D), "t": TIMES, "mean": torch.randn(4, D), "width": torch.rand(4) + 0.1}
    report = export_model(
        Backwards(), root / "gaussians", CARD, examples=examples, outputs=["output"], sizes=SIZES, gradients=True
    )
    assert report.error["gradient"] < 1e-5
    for name in ("rings", "nearness"):
        shutil.copytree(small_models / name, root / name)
    return root


@pytest.fixture(scope="module")
def wish(tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = Card(name="wish", score_output="score", sample=Sample(range=(-1, 1), to=(0, 1), resize=(4, 4)))
    examples = {"image": torch.randn(2, 1, 4, 4), "wish": torch.randn(2, 3)}
    root, outputs = tmp_path_factory.mktemp("wish"), ["seen", "score"]
    export_model(Wish(), root / "wish", card, examples=examples, outputs=outputs, sizes=SIZES, gradients=True)
    return root


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, examples = tmp_path_factory.mktemp("decoder"), {"x": torch.randn(3, D)}
    card = Card(name="decoder")
    export_model(Decoder(), root / "decoder", card, examples=examples, outputs=["output"], sizes=SIZES, gradients=True)
    return root


@pytest.fixture(scope="module")
def live(root: Path) -> Iterator[Live]:
    with running(root, threads=1) as live:
        yield live


def loaded(root: Path) -> dict[str, Model]:
    return {folder.name: load(folder, lambda file: OrtNetwork(file, 1)) for folder in scan(root)}


def drawn(live: Live, method: str, inputs: Any = None, **parameters: Any) -> tuple[Any, Any]:
    given = {**GIVEN, "reward_direction": DIRECTION, **(inputs or {})}
    asked = {"samples": 256, "seed": 3, "steering": method, "reward": "linear", **parameters}
    return live.infer(given, model="gaussians", **asked)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_dps_draws_the_tilted_law_where_it_is_exact(live: Live, guidance: float):
    """A linear reward moves N(w mean, width^2) by width^2 direction / beta, guidance w through both of its rows."""
    outputs, answered = drawn(live, "dps", guidance=guidance, beta=2.0, solver="dpmpp_2m", steps=30)
    expected = guidance * MEAN[0] + WIDTH**2 * DIRECTION / 2
    assert outputs["samples"].mean(axis=0) == pytest.approx(expected, abs=5 * WIDTH / 16)
    assert outputs["samples"].std(axis=0) == pytest.approx([WIDTH] * D, abs=0.1)
    each = 1 if guidance == 1 else 2
    rows = {name: answered[name] for name in ("network_rows", "gradient_rows", "reward_gradient_rows", "reward_rows")}
    assert rows == {
        "network_rows": 256 * 30 * each, "gradient_rows": 256 * 30 * each, "reward_gradient_rows": 256 * 30,
        "reward_rows": 256,
    }  # fmt: skip


METHODS: dict[str, Any] = {
    "classifier_guidance": (baselines.ClassifierGuidance, {}, {}),
    "dps": (baselines.Dps, {}, {}),
    "lgd_mc": (baselines.LgdMc, {"candidates": 4, "spread": 0.5}, {"draws": 4, "spread": 0.5}),
    "tfg": (baselines.Tfg, {"rho": 0.7, "mu": 0.2}, {"rho": 0.7, "mu": 0.2}),
    "tds": (
        baselines.tds,
        {"population": 4, "keep": 2, "solver": "sde_dpmpp_2m"},
        {"particles": 4, "keep": 2},
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_draw_what_they_draw_in_a_notebook(live: Live, root: Path, method: str):
    make, parameters, arguments = METHODS[method]
    shaped = {"samples": 6, "steps": 8, "beta": 0.3, **parameters}
    center = np.array([0.3, 0.1, 0.0, 0.2], F)
    outputs, answered = live.infer(
        {**GIVEN, "reward_goal": center}, model="gaussians", seed=3, steering=method,
        reward="2 * quadratic(center=goal) - 0.5 * maximum(quadratic(center=goal), linear(direction=goal))", **shaped,
    )  # fmt: skip
    goal = torch.from_numpy(center)

    def reward(x: Tensor) -> Tensor:
        quadratic = -0.5 * (x - goal).square().sum(dim=1)
        return 2 * quadratic - 0.5 * torch.maximum(quadratic, (x * goal).sum(dim=1))

    network = Backwards()
    plan = steering.plan(
        parameters.get("solver", "dpmpp_2m"), path=steering.paths.rectified_flow(t_min=0.001, t_max=0.999), steps=8,
        prediction="velocity",
    )  # fmt: skip
    x, report = steering.run(
        plan, lambda x, t, **c: -network(x, t, **c), (6, D), 3, make(reward, 0.3, **arguments), report=True,
        condition={name: torch.from_numpy(value) for name, value in GIVEN.items()},
    )  # fmt: skip
    assert np.abs(outputs["samples"] - x.numpy()).max() < 1e-4
    assert answered["steering"] == method
    assert answered.get("gradient_rows", 0) == report.gradient_rows
    assert answered["reward_gradient_rows"] == report.reward_gradient_rows > 0
    assert json.loads(answered["report"])["no_hit"] == report.no_hit


def test_the_methods_tested_are_those_served():
    assert set(METHODS) == set(BY_GRADIENTS) <= set(TAKES)


@pytest.mark.parametrize("method", METHODS)
def test_front_and_replica_count_the_same_rows(root: Path, method: str):
    """Pullbacks among them, in network rows as measured."""
    model = open_sampler(root, "gaussians")
    assert model.backward is not None
    parameters = {
        "samples": 3,
        "steps": 7,
        "steering": method,
        "reward": "linear",
        "guidance": 2.0,
        **METHODS[method][1],
    }
    request = InferRequest("gaussians", inputs={**GIVEN, "reward_direction": DIRECTION}, parameters=parameters)
    count = task_for(request, model, {"gaussians": model}).network_rows
    asked = Asked("gaussians", "", parameters, prompts=0)
    assert asked.rows(sampler_state(model).draws) == count
    chains = 2 * 4 if method == "tds" else 3
    units = 0.0 if method == "classifier_guidance" else model.backward.units
    assert count == 2 * 7 * chains + math.ceil(2 * 7 * chains * units)


def test_gradients_go_through_decoder_and_what_becomes_of_a_picture(wish: Path, decoder: Path):
    """Against differences of the scores themselves."""
    small = loaded(decoder)["decoder"]
    assert isinstance(small, PlainModel)
    seen = bind("wish", loaded(wish), (1, 2, 2), {}, {"reward_wish": np.array([0.5, -0.5, 0.2], F)})
    codec = Codec(model="decoder", scale=0.5, shift=0.25)
    (takes,), (gives,) = small.network.backend.inputs, small.network.backend.outputs
    reward = DecodedReward(seen, Coder(small, codec, takes, gives, 1.0, (1, 2, 2)))
    assert not reward.no_gradient

    def answer(step: Any) -> Any:
        assert isinstance(step, Evaluation)
        return step.network.backend.run({name: whole(each) for name, each in step.feeds.items()}, step.outputs)

    x = torch.randn(3, D, generator=torch.Generator().manual_seed(1))
    both = answered(reward.gradients(x), answer)
    assert torch.allclose(both[:, 0], answered(reward.scores(x), answer), atol=1e-5)
    for i in range(D):
        step = torch.zeros(D)
        step[i] = 1e-2
        slope = (answered(reward.scores(x + step), answer) - answered(reward.scores(x - step), answer)) / 2e-2
        assert torch.allclose(both[:, 1 + i], slope, atol=2e-3)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"model": "rings", "steering": "dps", "reward": "linear"}, "expected a model with a vector-Jacobian graph"),
        ({"reward": "half_space", "reward_threshold": 1.0}, "reward with a gradient, got 'half_space': it is an event"),
        ({"reward": "linear(direction=direction) - half_space(direction=direction, threshold=1)"},
         "of 'half_space': it is an event"),
        ({"model": "rings", "steering": "classifier_guidance", "reward": "nearness", "reward_mode": 1},
         "'nearness': its network has no vector-Jacobian graph"),
        ({"reward": "linear", "threshold": 1.0}, "threshold: steering 'dps' does not take it"),
        ({"reward": "linear", "particles": 8}, "particles: steering 'dps' does not take it"),
        ({"reward": "linear", "steering": "lgd_mc", "candidates": 3}, "draws: expected an even integer"),
        ({"reward": "linear", "steering": "tds"}, "draws no noise"),
        ({"reward": "linear", "guidance": 2.0, "guidance_rescale": 0.5}, "expected guidance_rescale 0, got 0.5"),
    ],
)  # fmt: skip
def test_refusals(live: Live, asked: dict[str, Any], text: str):
    model = asked.get("model", "gaussians")
    inputs = {"reward_direction": np.ones(2, F)} if model == "rings" else {**GIVEN, "reward_direction": DIRECTION}
    if "nearness" in asked["reward"]:
        inputs = {}
    status, said = live.refusal(inputs=inputs, **{"steering": "dps", "model": model, **asked})
    assert status == "INVALID_ARGUMENT"
    assert text in said


def test_a_service_has_no_gradient():
    assert ExternalReward.no_gradient == "it is scored forwards only"


def test_a_card_whose_graph_is_missing_or_another_is_refused(root: Path, wish: Path, tmp_path: Path):
    shutil.copytree(root / "gaussians", tmp_path / "gaussians")
    file = tmp_path / "gaussians" / "1" / "vjp.onnx"
    shutil.copy(wish / "wish" / "1" / "vjp.onnx", file)
    with pytest.raises(LoadError, match=r"vjp.onnx: expected the input 'x', as the card's vjp says"):
        open_sampler(tmp_path, "gaussians")
    file.unlink()
    with pytest.raises(LoadError, match=r"vjp.onnx: expected an ONNX graph, got no such file"):
        open_sampler(tmp_path, "gaussians")
    card = load_card(tmp_path / "gaussians" / "card.yaml")
    dump_card(card.model_copy(update={"vjp": None}), tmp_path / "gaussians" / "card.yaml")
    assert open_sampler(tmp_path, "gaussians").backward is None
