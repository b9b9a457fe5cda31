"""Starts in the middle and grids that a request brings, asked of a whole server by NVIDIA's client."""

import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import steering
from serving.models.model import Model, Sampler
from serving.models.offline import solve
from tests import networks
from tests.serving.live import MODE, Live, running

F = np.float32
DATA = np.tile(networks.modes().numpy()[:1], (6, 1)).astype(F)
STATE = np.full((3, 2), 0.5, F)


@pytest.fixture(scope="module")
def live(small_models: Path) -> Iterator[Live]:
    with running(small_models) as live:
        yield live


@pytest.fixture
def rings(models: dict[str, Model]) -> Sampler:
    found = models["rings"]
    assert isinstance(found, Sampler)
    return found


def offline(model: Sampler, plan: steering.Plan, start: steering.Start | None, n: int, seed: int = 5) -> np.ndarray:
    problem = steering.Problem(plan=plan, event=(2,))
    return solve(steering.sample(problem, steering.Noise(seed, range(n)), None, start), model)[0].numpy()


def refused(live: Live, inputs: dict[str, Any], **parameters: Any) -> str:
    code, text = live.refusal(inputs=inputs, **parameters)
    assert code == "INVALID_ARGUMENT", text
    assert "\n" not in text
    return text


@pytest.mark.parametrize(("strength", "left"), [(0.5, 10), (0.3, 6), (0.05, 1), (1, 20), (0.999, 19)])
def test_strength_takes_the_last_steps_from_noised_data(live: Live, rings: Sampler, strength: float, left: int):
    given: dict[str, Any] = {"samples": 6, "seed": 5, "strength": strength}
    outputs, parameters = live.infer({"x_init": DATA}, **given)
    assert parameters["network_rows"] == 6 * left
    assert parameters["warnings"] == ""
    plan = rings.plan("dpmpp_2m", 20, strength=strength)
    wanted = offline(rings, plan, steering.Noised(torch.from_numpy(DATA)), 6)
    assert outputs["samples"].tobytes() == wanted.tobytes()
    again, _ = live.infer({"x_init": DATA[:1]}, **given)  # one image for all samples
    assert again["samples"].tobytes() == wanted.tobytes()
    many, _ = live.infer({"x_init": DATA[:1]}, **{**given, "samples": 150})
    assert many["samples"][:6].tobytes() == wanted.tobytes()
    few, _ = live.infer({"x_init": DATA[:1]}, **{**given, "samples": 2})
    assert few["samples"].tobytes() == wanted[:2].tobytes()
    assert len({row.tobytes() for row in wanted}) == 6


def test_little_strength_stays_near_the_data_and_much_does_not(live: Live):
    image = {"x_init": DATA[:1]}
    near, far = (live.infer(image, samples=200, seed=1, strength=s)[0]["samples"] for s in (0.3, 0.95))
    distance = [float(np.median(np.linalg.norm(x - DATA[:1], axis=1))) for x in (near, far)]
    assert distance[0] < 0.4 < 1.5 < distance[1]


def test_a_start_in_the_middle_has_the_same_bytes_among_other_requests(live: Live):
    given: dict[str, Any] = {"samples": 5, "seed": 2, "strength": 0.4, "steps": 30}
    alone = live.infer({"x_init": DATA[:5]}, **given)[0]["samples"]
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(live.infer, None, samples=40, steps=9 + i, seed=i) for i in range(6)]
        mine = [pool.submit(live.infer, {"x_init": DATA[:5]}, **given) for _ in range(4)]
        assert {each.result()[0]["samples"].tobytes() for each in mine} == {alone.tobytes()}
        assert len([each.result() for each in others]) == 6


@pytest.mark.parametrize(
    "steered",
    [
        {"steering": "doob"},
        {"steering": "doob", "posterior": "gaussian"},
        {"steering": "smc", "solver": "sde_dpmpp_2m", "population": 16, "keep": 1},
        {"steering": "fk_steering", "solver": "sde_dpmpp_2m"},
        {"steering": "svdd", "solver": "ddim", "eta": 1.0},
        {"steering": "best_of", "chains": 16},
    ],
    ids=lambda each: "-".join(map(str, each.values())),
)
def test_steering_goes_on_from_noised_data(live: Live, steered: dict[str, Any]):
    """Toward the next mode but two; from halfway a share of the samples gets there, more than without."""
    given: dict[str, Any] = {"samples": 32, "seed": 5, "strength": 0.9, **steered}
    toward: dict[str, Any] = {"reward": "nearness", "reward_mode": MODE}
    outputs, _ = live.infer({"x_init": DATA[:1]}, **given, **toward)
    same: dict[str, Any] = {"samples": 32, "seed": 5, "strength": 0.9, "steering": "none"}
    plain, _ = live.infer({"x_init": DATA[:1]}, **same, **toward)
    assert float(outputs["rewards"].mean()) > float(plain["rewards"].mean()) + 0.5


def test_what_is_kept_of_an_image_is_kept_from_the_middle_too(live: Live):
    inputs = {"x_init": DATA[:1], "known": np.array([[2.0, 0.0]], F), "mask": np.array([True, False])}
    outputs, _ = live.infer(inputs, samples=8, strength=0.5, seed=1)
    np.testing.assert_allclose(outputs["samples"][:, 0], 2.0, atol=0.02)


@pytest.mark.parametrize("solver", ["rk45", "dpm_solver_23", "dlg", "heun", "sde_dpmpp_2m", "euler"])
def test_solvers_of_all_kinds_start_in_the_middle(live: Live, solver: str):
    given: dict[str, Any] = {"samples": 6, "seed": 5, "strength": 0.5, "solver": solver, "steps": 8}
    if "budget" in steering.solvers[solver].options:
        given["budget"] = 200  # a deadline is held against the most that may be taken
    first, second = (live.infer({"x_init": DATA}, **given)[0]["samples"] for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert np.isfinite(first).all()


def test_a_state_at_a_time_goes_on_from_there(live: Live, rings: Sampler):
    outputs, parameters = live.infer({"x_init": STATE}, samples=3, seed=5, start_t=0.5, steps=8)
    assert parameters["network_rows"] == 24
    plan = rings.plan("dpmpp_2m", 8, start_t=0.5)
    assert plan.nodes[0].t == 0.5
    assert outputs["samples"].tobytes() == offline(rings, plan, torch.from_numpy(STATE), 3).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("unit", ["t", "sigma", "rho", "logsnr"])
def test_the_nodes_of_a_named_grid_draw_the_same(live: Live, rings: Sampler, dtype: type, unit: str):
    named = rings.plan("dpmpp_2m", 12, grid="karras(5)")
    values = {
        "t": [n.t for n in named.nodes], "sigma": [n.sigma for n in named.nodes], "rho": [n.rho for n in named.nodes],
        "logsnr": [n.log_snr for n in named.nodes],
    }[unit]  # fmt: skip
    given: dict[str, Any] = {"samples": 6, "seed": 5}
    outputs, parameters = live.infer({"grid": np.array(values, dtype)}, grid_unit=unit, **given)
    assert (parameters["network_rows"], parameters["warnings"]) == (72, "")
    wanted, _ = live.infer(None, steps=12, grid="karras(5)", **given)
    np.testing.assert_allclose(outputs["samples"], wanted["samples"], atol=2e-3 if dtype is np.float32 else 1e-5)
    if unit == "t" and dtype is np.float64:
        assert outputs["samples"].tobytes() == wanted["samples"].tobytes()
        assert live.infer({"grid": np.array(values)}, **given)[0]["samples"].tobytes() == outputs["samples"].tobytes()


def test_a_grid_that_begins_late_says_so_unless_it_has_a_start(live: Live, rings: Sampler):
    grid = np.array([0.5, 0.3, 0.1, 0.001])
    outputs, parameters = live.infer({"grid": grid, "x_init": STATE}, samples=3, seed=5)
    assert (parameters["network_rows"], parameters["warnings"]) == (9, "")
    plan = rings.plan("dpmpp_2m", 3, grid=tuple(grid))
    assert outputs["samples"].tobytes() == offline(rings, plan, torch.from_numpy(STATE), 3).tobytes()
    _, parameters = live.infer({"grid": grid}, samples=3, seed=5)
    assert parameters["warnings"] == (
        "the grid begins at t=0.5, where data have a part of 0.5 beside noise of 0.5, and a start without x_init "
        "leaves it out"
    )


def test_a_grid_is_walked_backwards_and_used_by_likelihoods(live: Live):
    grid = np.array([0.999, 0.9, 0.6, 0.3, 0.1, 0.02, 0.001])
    noise, parameters = live.infer({"grid": grid, "x_init": DATA}, samples=6, reverse=True, solver="ddim")
    assert parameters["network_rows"] == 36
    assert float(np.abs(noise["samples"]).max()) < 6
    outputs, parameters = live.infer({"grid": grid, "x_init": DATA}, samples=6, likelihood="data", seed=1)
    assert np.isfinite(outputs["log_likelihood"]).all()
    assert parameters["network_rows"] <= 6 * 6 * 5 * 9


GRID = np.array([0.9, 0.5, 0.1])


@pytest.mark.parametrize(
    ("inputs", "parameters", "expected"),
    [
        ({}, {"strength": 0.5}, "strength: expected the data to start from in an input x_init, got none"),
        ({}, {"start_t": 0.5}, "start_t: expected the state to start from in an input x_init, got none"),
        ({"x_init": DATA}, {"strength": 0.0}, "parameter strength: expected greater than 0, got 0.0"),
        ({"x_init": DATA}, {"strength": 1.01}, "parameter strength: expected less than or equal to 1, got 1.01"),
        ({"x_init": DATA}, {"strength": "0.5"}, "parameter strength: expected a valid number, got '0.5'"),
        ({"x_init": DATA}, {"strength": True}, "parameter strength: expected a valid number, got True"),
        ({"x_init": DATA}, {"strength": 0.04}, "strength: expected at least 1 / steps, 0.05, .* got 0.04"),
        ({"x_init": DATA}, {"strength": 0.5, "reverse": True}, "strength: expected none beside reverse"),
        ({"x_init": DATA}, {"start_t": 0.5, "reverse": True}, "start_t: expected none beside reverse"),
        ({"x_init": DATA}, {"strength": 0.5, "start_t": 0.5}, "strength: expected none beside start_t, got both"),
        ({"x_init": DATA}, {"strength": 0.5, "likelihood": "data"}, "strength: expected none beside likelihood, got 0"),
        ({"x_init": DATA}, {"start_t": 0.5, "likelihood": "data"}, "start_t: expected none beside likelihood, got 0"),
        ({"x_init": DATA}, {"start_t": 1.5}, "start_t: expected a time above 0.001 and up to 0.999, got 1.5"),
        ({"x_init": DATA}, {"start_t": 0.0}, "start_t: expected a time above 0.001 and up to 0.999, got 0"),
        ({"x_init": DATA[:1]}, {}, r"input 'x_init': expected FP32 \[6, 2\] \(samples, then the event\)"),
        ({"x_init": DATA[:2]}, {"strength": 0.5}, r"input 'x_init': expected FP32 \[6, 2\] or \[1, 2\]"),
        (
            {"x_init": DATA}, {"strength": 0.5, "steering": "bank_resampling", "reward": "nearness", "reward_mode": 1},
            "bank resampling: expected no x_init",
        ),
        ({"grid": GRID}, {"steps": 3}, "steps: expected 2 beside an input grid of 3 nodes, or none, got 3"),
        ({"grid": GRID}, {"grid": "logsnr"}, "grid: expected it as an input or as a parameter, got both"),
        ({"grid": GRID}, {"grid_unit": "snr"}, "parameter grid_unit: expected 't', 'sigma', 'rho' or 'logsnr'"),
        ({}, {"grid_unit": "t"}, "grid_unit: expected an input grid beside it, got none"),
        ({"grid": GRID.astype(np.int64)}, {}, r"input 'grid': expected FP64 or FP32 \[2..1001\] nodes, got int64"),
        ({"grid": GRID[None]}, {}, r"input 'grid': expected FP64 or FP32 \[2..1001\] nodes, got float64 \[1, 3\]"),
        ({"grid": GRID[:1]}, {}, r"input 'grid': expected FP64 or FP32 \[2..1001\] nodes, got float64 \[1\]"),
        ({"grid": np.zeros(0)}, {}, r"input 'grid': expected FP64 or FP32 \[2..1001\] nodes, got float64 \[0\]"),
        ({"grid": np.linspace(0.9, 0.1, 1002)}, {}, r"input 'grid': expected FP64 or FP32 \[2..1001\] nodes, got"),
        ({"grid": np.array([0.9, np.nan])}, {}, "input 'grid': expected finite numbers, got NaN or infinity"),
        ({"grid": np.array([0.9, 0.5, 0.5])}, {}, "grid: expected t strictly from noise to data, .* got 0.5 and then"),
        ({"grid": GRID[::-1].copy()}, {}, "grid: expected t strictly from noise to data, 0.999..0.001, got 0.1 and"),
        ({"grid": np.array([1.0, 0.5])}, {}, "grid: expected nodes in 0.999..0.001, got 1 at 0"),
        ({"grid": np.array([0.9, 0.0])}, {}, "grid: expected nodes in 0.999..0.001, got 0 at 1"),
        ({"grid": np.array([0.9, 0.9 - 1e-12, 0.1])}, {}, "grid: expected nodes at least 1e-05 of log-SNR apart"),
        ({"x_init": DATA}, {"start_t": 0.001 + 1e-12}, "start_t: expected a time farther from 0.001, with room for 20"),
        ({"grid": np.array([0.9, 1e-300])}, {}, "grid: expected nodes in 0.999..0.001, got 1e-300 at 1"),
        ({"grid": np.array([1e300, 0.1])}, {"grid_unit": "rho"}, "grid: expected nodes in 999..0.001"),
        ({"grid": GRID, "x_init": DATA}, {"start_t": 0.5}, "start_t: expected none beside an explicit grid, got both"),
        ({"grid": GRID, "x_init": DATA}, {"likelihood": "data"}, "likelihood: expected a grid from t=0.999 to t=0.001"),
    ],
)  # fmt: skip
def test_what_is_refused(live: Live, inputs: dict[str, Any], parameters: dict[str, Any], expected: str):
    if any(not np.isfinite(each).all() for each in inputs.values()):
        assert live.refusal(inputs=inputs, **parameters)[1] == expected
        return
    samples = {} if "likelihood" in parameters and "x_init" not in inputs else {"samples": 6}
    text = refused(live, inputs, **samples, **parameters)
    assert re.match(expected, text), text


def test_a_grid_of_a_thousand_steps_is_served(live: Live):
    grid = np.geomspace(0.999, 0.001, 1001)
    outputs, parameters = live.infer({"grid": grid}, seed=1, solver="ddim")
    assert parameters["network_rows"] == 1000
    assert math.isfinite(float(outputs["samples"].sum()))
