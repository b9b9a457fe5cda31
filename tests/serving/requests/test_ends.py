"""Path ends, integer times, ends in D, starts at the mean and few steps, asked of a real front and replica."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import steering
from tests.serving.live import Live, running

MEAN, SPREAD = 3.0, 0.5
TABLES = sorted(name for name, each in steering.solvers.items() if each.updates and name != "searched")
ADAPTIVE = ("rk45", "dpm_solver_12", "dpm_solver_23")
COARSE = 20
"""Steps of a discrete path on which rounded times show."""


class Gaussian(nn.Module):
    """What a network says of N(mean, spread^2) on a flow (t in 0..1) or on EDM's path (t the noise level)."""

    def __init__(self, says: str, edm: bool = False) -> None:
        super().__init__()
        self.says, self.edm = says, edm

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        sigma = t[:, None]
        alpha = torch.ones_like(sigma) if self.edm else 1 - sigma
        denoised = MEAN + alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * (x - alpha * MEAN)
        eps = (x - alpha * denoised) / sigma
        if self.says == "x0":
            return denoised
        return {"eps": eps, "v": alpha * eps - sigma * denoised, "velocity": eps - denoised}[self.says]


class Counting(nn.Module):
    """The same for eps on a table of alpha-bars, looked up by a whole number."""

    alpha_bars: Tensor

    def __init__(self, alpha_bars: tuple[float, ...], mean: float = MEAN, spread: float = SPREAD) -> None:
        super().__init__()
        self.mean, self.spread = mean, spread
        self.register_buffer("alpha_bars", torch.tensor(alpha_bars, dtype=torch.float32))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha_bar = self.alpha_bars[t][:, None]
        alpha, variance = alpha_bar.sqrt(), 1 - alpha_bar
        denoised = self.mean + alpha * self.spread**2 / (alpha_bar * self.spread**2 + variance) * (
            x - alpha * self.mean
        )
        return (x - alpha * denoised) / variance.sqrt()


class Huge(nn.Module):
    """Finite outputs that no sampler can add up."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x * 0 + t[:, None] * 0 + 3e38


FLOW: dict[str, Any] = {"path": {"kind": "rectified_flow"}, "prediction": "velocity"}
STEPPED: dict[str, Any] = {"prediction": "eps", "inputs": {"time": "N*t-1"}}
SD = steering.paths.vp_betas()
FEW = steering.paths.vp_discrete(
    alpha_bars=(steering.paths.vp_linear().alpha(torch.arange(1, COARSE + 1) / COARSE) ** 2).tolist()
)
assert isinstance(SD, steering.paths.VPDiscrete)
assert isinstance(FEW, steering.paths.VPDiscrete)
BETAS: dict[str, Any] = {**STEPPED, "path": {"kind": "vp_betas"}}
MODELS: dict[str, tuple[nn.Module, dict[str, Any]]] = {
    "flow01": (Gaussian("velocity"), {**FLOW, "t_range": [0, 1]}),
    "flow0": (Gaussian("velocity"), {**FLOW, "t_range": [0, 0.999]}),
    "flow": (Gaussian("velocity"), FLOW),
    "flow-eps": (Gaussian("eps"), {**FLOW, "prediction": "eps", "t_range": [0, 1]}),
    "edm0": (Gaussian("x0", edm=True), {"path": {"kind": "edm"}, "prediction": "x0", "t_range": [0, 80]}),
    "huge": (Huge(), FLOW | {"prediction": "eps"}),
    "few": (Counting(FEW.alpha_bars), {**STEPPED, "path": {"kind": "vp_discrete", "alpha_bars": list(FEW.alpha_bars)}}),
    "fine": (Counting(SD.alpha_bars, 0.0, 0.02), BETAS),
    "noisy": (Counting(SD.alpha_bars, 0.0, 0.02), {**BETAS, "end": "t_min"}),
    "wide": (Counting(SD.alpha_bars, 2.0, 3.0), BETAS),
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("ends")
    for name, (network, card) in MODELS.items():
        write(root / name, network, card)
    rng = np.random.default_rng(0)
    bank = 2 + 3 * rng.standard_normal((2000, 2))
    np.savez(root / "wide" / "1" / "bank.npz", x=(bank - bank.mean(axis=0) + 2).astype(np.float32))
    with running(root) as server:
        yield server


def write(folder: Path, network: nn.Module, card: dict[str, Any]) -> None:
    (folder / "1").mkdir(parents=True)
    batch = torch.export.Dim("batch")
    whole = isinstance(network, Counting)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (torch.randn(3, 2), torch.tensor([1, 5, 9]) if whole else torch.tensor([0.2, 0.5, 0.8])),
            folder / "1" / "model.onnx", input_names=["x", "t"], output_names=["output"],
            dynamic_shapes=({0: batch}, {0: batch}), verbose=False, external_data=False,
        )  # fmt: skip
    (folder / "card.yaml").write_text(yaml.safe_dump({"format": 1, "name": folder.name, "event_shape": [2], **card}))


def moments(x: Any) -> tuple[float, float]:
    return float(x.mean()), float(x.std())


@pytest.mark.parametrize("solver", [*TABLES, *ADAPTIVE, "dlg"])
@pytest.mark.parametrize("model", ["flow01", "flow0", "edm0"])
def test_samples_from_path_ends_are_finite_and_right(live: Live, model: str, solver: str):
    loose = {"rtol": 0.01, "atol": 0.01} if solver in ADAPTIVE else {}
    for steps in (1, 2, 5):
        outputs, _ = live.infer(None, 600, model, samples=2, steps=steps, solver=solver, seed=1, **loose)
        assert np.isfinite(outputs["samples"]).all()
    if model != "flow01" and solver not in ("dpmpp_2m", "sde_dpmpp_2m", "deis_tab3", "flow_heun", "rk45"):
        return  # tests/steering/plans/test_ends.py has their laws
    many = {"annealed_langevin": 100, "pc": 100, "euler_ancestral": 100, "sde_dpmpp_1": 100}.get(solver, 40)
    outputs, said = live.infer(None, 600, model, samples=100, steps=many, solver=solver, seed=1, **loose)
    mean, spread = moments(outputs["samples"])
    if solver != "consistency":  # for which D is a sample, and which is for networks that make some
        assert mean == pytest.approx(MEAN, abs=0.15)
        assert spread == pytest.approx(SPREAD, rel=0.25)
        assert said["warnings"] == ""


def test_what_no_network_can_say_is_one_line(live: Live):
    for solver in ("dpmpp_2m", "flow_euler", "rk45"):
        status, text = live.refusal(model="flow-eps", solver=solver)
        assert status == "INVALID_ARGUMENT"
        assert text.startswith("prediction 'eps': expected alpha above 0 where the network is asked, got 0 at t=1")
        assert "\n" not in text
    raw = {"x": np.ones((2, 2), np.float32), "t": np.full(2, 0.5, np.float32)}
    assert live.infer(raw, model="flow-eps.network")[0]["output"].shape == (2, 2)  # the graph itself is served


@pytest.mark.parametrize("solver", ["dpmpp_2m", "ddim", "flow_euler", "heun", "rk45"])
def test_outputs_that_overflow_are_an_error(live: Live, solver: str):
    budget = {"budget": 60} if solver in ADAPTIVE else {}
    status, text = live.refusal(model="huge", solver=solver, steps=5, within=600, **budget)
    assert status in ("INTERNAL", "FAILED_PRECONDITION")  # an adaptive solver runs out of its budget
    assert "NaN or infinity" in text or "budget" in text


@pytest.mark.parametrize("model", ["flow01", "edm0", "flow"])
def test_likelihoods_inversion_and_other_paths_work_through_the_ends(live: Live, model: str):
    x = (MEAN + SPREAD * np.random.default_rng(1).standard_normal((6, 2))).astype(np.float32)
    outputs, _ = live.infer({"x_init": x}, model=model, samples=6, likelihood="data", steps=40)
    exact = -(((x - MEAN) / SPREAD) ** 2 / 2 + np.log(SPREAD * np.sqrt(2 * np.pi))).sum(axis=1)
    np.testing.assert_allclose(outputs["log_likelihood"], exact, atol=0.05)
    noise, _ = live.infer({"x_init": x}, model=model, samples=6, reverse=True, steps=60, solver="dpmpp_2m")
    back, _ = live.infer({"x_init": noise["samples"]}, model=model, samples=6, steps=60)
    np.testing.assert_allclose(back["samples"], x, atol=0.1)
    other, _ = live.infer(model=model, samples=400, path="vp_cosine", steps=40, seed=1)
    assert moments(other["samples"]) == pytest.approx((MEAN, SPREAD), rel=0.12)


def test_a_likelihoods_grid_lies_between_the_finite_ends(live: Live):
    x = (MEAN + SPREAD * np.random.default_rng(1).standard_normal((6, 2))).astype(np.float32)
    given: dict[str, Any] = {"model": "flow01", "samples": 6, "likelihood": "data"}
    status, text = live.refusal(inputs={"x_init": x, "grid": np.array([1.0, 0.5, 0.0])}, **given)
    ends = steering.paths.rectified_flow(t_min=0.0, t_max=1.0).finite
    wanted = f"grid: expected nodes in {ends.t_max:.9g}..{ends.t_min:.9g}, got 1 at 0"
    assert (status, text) == ("INVALID_ARGUMENT", wanted)
    logsnr = np.linspace(*ends.levels, 61)
    outputs, _ = live.infer({"x_init": x, "grid": logsnr}, grid_unit="logsnr", **given)
    exact = -(((x - MEAN) / SPREAD) ** 2 / 2 + np.log(SPREAD * np.sqrt(2 * np.pi))).sum(axis=1)
    np.testing.assert_allclose(outputs["log_likelihood"], exact, atol=0.05)


def test_the_largest_grid_leaves_room_for_the_step_to_d(live: Live):
    grid = {"grid": np.linspace(0.999, 0.001, 1001)}
    assert live.refusal(model="flow", inputs=grid, end="denoise") == (
        "INVALID_ARGUMENT", "grid: expected at most 1000 nodes beside end 'denoise', which adds one, got 1001",
    )  # fmt: skip
    _, said = live.infer({"grid": grid["grid"][1:]}, model="flow", end="denoise")
    assert said["network_rows"] == 1000


def test_steering_works_through_the_ends(live: Live):
    """Toward exp(r / beta), r = x_1 + x_2, the mean of N(m, s^2) moves by s^2 / beta."""
    direction = {"reward_direction": np.ones(2, np.float32)}
    ways: list[dict[str, Any]] = [{}, {"solver": "sde_dpmpp_2m"}, {"posterior": "gaussian"}]
    for model in ("flow01", "edm0"):
        for more in ways:
            outputs, _ = live.infer(direction, model=model, samples=200, reward="linear", beta=0.5, seed=1, **more)
            assert moments(outputs["samples"])[0] == pytest.approx(MEAN + SPREAD**2 / 0.5, abs=0.15)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc_2", "ddim", "heun", "deis_tab3", "dpmpp_3s", "rk45"])
def test_networks_of_whole_times_keep_the_mean(live: Live, solver: str):
    """At 5 steps it was 2.77; what is left of the start's gap is .04."""
    loose = {"rtol": 0.05, "atol": 0.05} if solver in ADAPTIVE else {}
    outputs, _ = live.infer(None, 600, "few", samples=400, steps=5, solver=solver, seed=2, **loose)
    assert moments(outputs["samples"])[0] == pytest.approx(MEAN, abs=0.12)


def test_discrete_models_end_in_d_unless_they_are_told_otherwise(live: Live):
    def spread(model: str, **more: Any) -> float:
        outputs, said = live.infer(model=model, samples=400, steps=30, seed=3, **more)
        assert said["network_rows"] == 400 * 30
        return moments(outputs["samples"])[1]

    assert spread("fine") == pytest.approx(0.0113, rel=0.1)  # D's own: .02^2 / sqrt(.02^2 + .029^2)
    assert spread("fine", end="t_min") == pytest.approx(0.0354, rel=0.1)
    assert spread("noisy") == pytest.approx(0.0354, rel=0.1)
    assert spread("noisy", end="denoise") == pytest.approx(0.0113, rel=0.1)


def test_an_end_that_does_not_fit_is_refused(live: Live):
    x = {"x_init": np.zeros((1, 2), np.float32)}
    assert live.refusal(model="flow", end="clean") == (
        "INVALID_ARGUMENT", "parameter end: expected 'denoise' or 't_min', got 'clean'",
    )  # fmt: skip
    assert live.refusal(model="flow", inputs=x, end="denoise", reverse=True)[0] == "INVALID_ARGUMENT"
    assert live.refusal(model="flow", inputs=x, end="denoise", likelihood="data")[0] == "INVALID_ARGUMENT"


def test_a_start_at_the_banks_mean_closes_the_gap(live: Live):
    arguments: dict[str, Any] = {"model": "wide", "samples": 1000, "steps": 40, "seed": 4}
    (plain, _), (centred, _) = (live.infer(**arguments), live.infer(**arguments, start_mean=True))
    gap = (centred["samples"] - plain["samples"]).mean()
    assert gap == pytest.approx(0.41, abs=0.02)
    assert moments(centred["samples"])[0] == pytest.approx(2, abs=0.25)
    x = {"x_init": np.zeros((1, 2), np.float32)}
    assert live.refusal(model="wide", inputs=x, start_mean=True) == (
        "INVALID_ARGUMENT", "start_mean: expected no x_init beside it, got some",
    )  # fmt: skip


def test_few_steps_that_explode_say_so(live: Live):
    _, said = live.infer(model="flow", solver="rho_heun", steps=1)
    assert said["warnings"].startswith(
        "rho_heun in 1 step on grid karras would give Gaussian data of standard deviation 1"
    )
    _, said = live.infer(model="flow", solver="heun", steps=5, grid="karras")
    assert "one of 3:" in said["warnings"]
    for solver, steps in (("heun", 5), ("flow_heun", 5), ("heun", 10), ("dpmpp_2m", 10)):
        outputs, said = live.infer(model="flow", solver=solver, steps=steps, samples=400, seed=1)
        assert said["warnings"] == ""
        assert moments(outputs["samples"])[1] == pytest.approx(SPREAD, rel=0.45)
