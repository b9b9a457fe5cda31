"""A card's defaults, and samplers by other programs' names, asked of a real front and replica."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import tritonclient.grpc as triton

import steering
from exporters.diffusers.schedule import schedule
from protos.card import Card
from serving.backends import LoadError
from serving.backends.opening import Opener
from serving.models.folders import scan
from serving.models.repository import load
from tests.networks import edit_card
from tests.serving.live import Live, running
from tests.serving.requests.test_ends import Counting, write

DEFAULTS: dict[str, Any] = {"solver": "dpmpp_2m", "steps": 7, "grid": "levels/karras(5)", "options": {"exact": 1}}
STABLE = {
    "_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "beta_end": 0.012, "timestep_spacing": "leading", "steps_offset": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, small_models: Path) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("defaults")
    for name in ("rings", "nearness"):
        shutil.copytree(small_models / name, root / name)
    edit_card(root / "rings", defaults=DEFAULTS, end="denoise")
    made = schedule(STABLE, steps=12)
    table = steering.paths.build(made.path)
    assert isinstance(table, steering.paths.VPDiscrete)
    card = Card.model_validate({"name": "stable", "event_shape": [2], "inputs": {"time": made.time}, **made.card})
    content = card.model_dump(mode="json", exclude_none=True, exclude={"name", "format", "event_shape"})
    write(root / "stable", Counting(table.alpha_bars), content)
    with running(root) as server:
        yield server


def samples(live: Live, **asked: Any) -> tuple[bytes, Any]:
    outputs, said = live.infer(samples=3, seed=5, **asked)
    return outputs["samples"].tobytes(), said


def test_a_request_that_says_nothing_gets_the_cards_defaults(live: Live):
    mine, said = samples(live)
    assert (said["solver"], said["network_rows"]) == ("dpmpp_2m", 3 * 7)
    explicit, _ = samples(live, solver="dpmpp_2m", steps=7, grid="levels/karras(5)", exact=1)
    assert mine == explicit


def test_what_a_request_says_wins(live: Live):
    _, said = samples(live, steps=4)
    assert said["network_rows"] == 3 * 4
    without, _ = samples(live, solver="dpmpp_2m")  # a solver that is said comes without the card's options
    assert without == samples(live, solver="dpmpp_2m", steps=7, grid="levels/karras(5)", exact=0)[0]
    assert without != samples(live)[0]
    assert samples(live, exact=0)[0] == without


@pytest.mark.parametrize(
    "asked",
    [
        {"reward": "nearness", "reward_mode": 1},
        {"reward": "nearness", "reward_mode": 1, "steering": "doit", "preset": "halfcheetah-medium-expert-v2"},
        {"path": "edm"},
        {"solver": "euler_a", "reward": "nearness", "reward_mode": 1, "steering": "svdd"},
    ],
)
def test_defaults_go_with_every_way_of_drawing(live: Live, asked: dict[str, Any]):
    outputs, _ = live.infer(samples=4, seed=1, **asked)
    assert np.isfinite(outputs["samples"]).all()


def test_defaults_are_not_for_what_does_not_sample(live: Live):
    x = {"x_init": np.zeros((2, 2), np.float32)}
    _, said = live.infer(x, samples=2, likelihood="data")
    assert said["network_rows"] == live.infer(x, samples=2, likelihood="data", steps=20)[1]["network_rows"]
    outputs, said = live.infer(x, samples=2, reverse=True)
    assert said["network_rows"] == 2 * 20
    assert np.isfinite(outputs["samples"]).all()


def test_the_models_configuration_says_them(live: Live):
    with triton.InferenceServerClient(live.address) as client:
        config = client.get_model_config("rings", as_json=True)["config"]
        other = client.get_model_config("nearness", as_json=True)["config"]
    said = json.loads(config["parameters"]["defaults"]["string_value"])
    assert said == {"solver": "dpmpp_2m", "steps": 7, "grid": "levels/karras(5)", "exact": 1.0}
    assert "defaults" not in other["parameters"]


def test_other_programs_names_are_taken_and_ours_come_back(live: Live):
    for name, ours, same in (
        ("DPM++ 2M Karras", "dpmpp_2m", {"grid": "levels/karras"}),
        ("dpmpp_2m_sde_karras", "sde_dpmpp_2m", {"grid": "levels/karras"}),
        ("euler_a", "euler_ancestral", {}),
        ("UniPCMultistepScheduler", "unipc_2", {"lower_final": 1001}),
    ):
        mine, said = samples(live, solver=name)
        assert said["solver"] == ours
        assert mine == samples(live, solver=ours, **same)[0]


def test_a_sampler_without_an_equal_names_the_nearest(live: Live):
    status, text = live.refusal(solver="dpmpp_3m_sde_karras")
    assert status == "INVALID_ARGUMENT"
    assert text == "solver 'dpmpp_3m_sde_karras': there is none like it here, the nearest is 'sde_dpmpp_2m'"
    assert live.refusal(solver="no_such")[1].startswith("unknown solver 'no_such': expected one of ")
    assert live.refusal(solver="euler_simple")[1].startswith("grid 'simple': expected a path of N trained steps")
    long = live.refusal(solver="a" * 50_000 + "_karras")[1]
    assert len(long) < 60_000


@pytest.mark.parametrize(
    "grid",
    ["leading(", "leading(x)", "leading(1,2)", "leading(1e9)", "levels", "levels/none", "levels/karras(nan)",
     "lcm(50)/karras/beta", "flow(3,1e9)", "leading(1)/beta(1e9)", "/", "levels/" + "a" * 5000],
)  # fmt: skip
def test_grids_that_are_none_are_one_line(live: Live, grid: str):
    for model in ("rings", "stable"):
        status, text = live.refusal(model=model, grid=grid)
        assert status == "INVALID_ARGUMENT"
        assert "\n" not in text


@pytest.mark.parametrize("grid", ["leading(999)", "leading(401)", "lcm(3)", "rounds(40)"])
def test_grids_beyond_the_table_are_refused(live: Live, grid: str):
    status, text = live.refusal(model="stable", grid=grid, steps=600)
    assert status == "INVALID_ARGUMENT", text


def test_a_model_with_a_schedulers_card_draws_what_the_scheduler_draws(live: Live):
    made = schedule(STABLE)
    table = steering.paths.build(made.path)
    assert isinstance(table, steering.paths.VPDiscrete)
    network = Counting(table.alpha_bars)
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(2))
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(STABLE)
    scheduler.set_timesteps(12)
    x = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t.expand(len(x))), t, x).prev_sample
    outputs, said = live.infer({"x_init": noise.numpy()}, model="stable", samples=64)
    assert said["network_rows"] == 64 * 12
    assert np.abs(outputs["samples"] - x.numpy()).max() < 1e-4 * float(x.std())


@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        ({"solver": "none"}, "defaults: unknown solver 'none': expected one of "),
        ({"grid": "odd"}, "defaults: unknown grid 'odd': expected one of "),
        ({"grid": "leading(1)"}, "defaults: grid 'leading(1)': expected a path of N trained steps"),
        ({"solver": "ddim", "options": {"exact": 1}}, "defaults: exact: solver 'ddim' has no such option"),
        ({"solver": "dpmpp_2m", "options": {"strange": 1}}, "defaults: unknown option 'strange'"),
        ({"guidance": 3.0}, "defaults.guidance: expected none, or 1, without conditions, got 3"),
    ],
)
def test_defaults_that_no_request_may_have_are_refused_at_load(
    tmp_path: Path, small_models: Path, defaults: dict[str, Any], expected: str
):
    shutil.copytree(small_models / "rings", tmp_path / "rings")
    edit_card(tmp_path / "rings", defaults=defaults)
    (folder,) = scan(tmp_path)
    with pytest.raises(LoadError, match=re.escape(expected)):
        load(folder, Opener(1))
