"""Parameterisations: whatever a network predicts, the denoised estimate is the same."""

import math

import pytest
import torch
from torch import Tensor

import steering
from steering import paths
from steering.errors import PlanError
from steering.paths import Path
from steering.plans.predictions import PREDICTIONS, denoise
from steering.problems import GaussianMixture


def output(prediction: str, path: Path, t: float, x0: Tensor, eps: Tensor) -> Tensor:
    """What a network of this parameterisation says of x = alpha x0 + sigma eps, straight from the definitions."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    return {
        "eps": eps,
        "x0": x0,
        "v": alpha * eps - sigma * x0,
        "velocity": path.alpha_dot(t) * x0 + path.sigma_dot(t) * eps,
        "score": -eps / sigma,
    }[prediction]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_parameterisation_gives_back_x0(path: Path, prediction: str):
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 64, 3, generator=g, dtype=torch.float64)
    for t in torch.linspace(path.t_min, path.t_max, 17, dtype=torch.float64).tolist():
        x = path.alpha(t) * x0 + path.sigma(t) * eps
        rule = denoise(path, t, prediction)
        assert rule.scale == 1
        torch.testing.assert_close(rule(x, output(prediction, path, t, x0, eps)), x0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_samples_do_not_depend_on_the_parameterisation(path: Path, prediction: str, mixture: GaussianMixture):
    def draw(name: str) -> Tensor:
        plan = steering.plan("heun", path=path, steps=6, prediction=name)
        return steering.run(plan, mixture.network(path, name), (8, 2), dtype=torch.float64)

    torch.testing.assert_close(draw(prediction), draw("x0"), rtol=0, atol=1e-11)


def test_an_x0_prediction_is_passed_on_untouched():
    x, out = torch.randn(2, 4, 3)
    assert denoise(paths.vp_cosine(), 0.5, "x0")(x, out) is out


def test_edm_preconditioning_is_table_1_of_karras():
    sd = 0.5
    path = paths.edm()
    x, f = torch.randn(2, 16, 3, dtype=torch.float64)
    for t in (0.002, 0.1, 0.5, 3.0, 80.0):
        rule = denoise(path, t, "x0", "edm", sd)
        norm = t**2 + sd**2
        skip, out, scale = sd**2 / norm, t * sd / norm**0.5, 1 / norm**0.5
        assert rule.scale == pytest.approx(scale, rel=1e-14)
        torch.testing.assert_close(rule(x, f), skip * x + out * f, rtol=1e-13, atol=1e-13)


def test_edm_preconditioning_feeds_unit_variance_and_needs_no_network_on_a_gaussian(path: Path):
    """For data N(0, sd^2) the network sees N(0, 1) at any noise level, and F = 0 is already the exact denoiser."""
    sd = 0.7
    for t in torch.linspace(path.t_min, path.t_max, 9, dtype=torch.float64).tolist():
        alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
        variance = alpha**2 * sd**2 + sigma**2
        rule = denoise(path, t, "x0", "edm", sd)
        assert rule.scale**2 * variance == pytest.approx(1, rel=1e-12)
        assert rule.state == pytest.approx(alpha * sd**2 / variance, rel=1e-12)


def test_a_raw_edm_network_draws_the_samples_of_its_denoiser(path: Path, mixture: GaussianMixture):
    sd = 1.3
    exact = mixture.network(path, "x0")

    def raw(scaled: Tensor, t: Tensor) -> Tensor:
        """F with c_skip y + c_out F(c_in y) = D, y = x / alpha."""
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
        rho = sigma / alpha
        norm = rho**2 + sd**2
        y = scaled * norm.sqrt()
        return (exact(alpha * y, t) - sd**2 / norm * y) / (rho * sd / norm.sqrt())

    wrapped = steering.plan("dpmpp_2m", path=path, steps=6, prediction="x0", preconditioning="edm", sigma_data=sd)
    plain = steering.plan("dpmpp_2m", path=path, steps=6, prediction="x0")
    torch.testing.assert_close(
        steering.run(wrapped, raw, (8, 2), dtype=torch.float64),
        steering.run(plain, exact, (8, 2), dtype=torch.float64),
        rtol=0,
        atol=1e-10,
    )


@pytest.mark.parametrize(
    ("prediction", "preconditioning", "complaint"),
    [
        ("noise", "none", "unknown prediction 'noise': expected one of eps, score, v, velocity, x0"),
        ("x0", "karras", "unknown preconditioning 'karras': expected one of edm, none"),
        ("eps", "edm", "got prediction 'eps'"),
    ],
)
def test_unknown_names_are_refused(prediction: str, preconditioning: str, complaint: str):
    with pytest.raises(PlanError, match=complaint):
        denoise(paths.edm(), 1.0, prediction, preconditioning)


@pytest.mark.parametrize("preconditioning", ["none", "edm"])
@pytest.mark.parametrize(
    ("onto", "trained"),
    [
        (paths.trig_flow(t_max=1.0), paths.rectified_flow()),  # alpha 6e-17
        (paths.trig_flow(t_max=1.0), paths.vp_betas().asked_at("N*t-1")),
        (paths.rectified_flow(t_max=1.0), paths.rectified_flow()),  # alpha 0
        (paths.rectified_flow(t_max=1.0), paths.edm()),
        (paths.rectified_flow(t_max=1.0), paths.vp_betas().asked_at("N*t-1")),
        (paths.trig_flow(t_max=1.0), paths.trig_flow(t_max=0.95)),
    ],
)
def test_noise_alone_is_scaled_to_the_noise_of_the_trained_path(onto: Path, trained: Path, preconditioning: str):
    """Where the path has no data left, the network is asked at its own noisiest level, of a state with that noise."""
    mean, std, data = 2.0, 0.5, torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    rule = denoise(onto, onto.t_max, "x0", preconditioning, trained=trained)
    t = torch.tensor(trained.t_max, dtype=torch.float64)
    sigma, rho = float(trained.sigma(t)), float(trained.sigma(t) / trained.alpha(t))
    c_in = 1.0 if preconditioning == "none" else 1 / (float(trained.alpha(t)) * math.sqrt(rho**2 + 0.25))
    assert rule.t == pytest.approx(trained.t_max)
    assert rule.scale == pytest.approx(c_in * sigma / float(onto.sigma(onto.t_max)), rel=2e-3)
    assert abs(float(rule.state)) < 0.05
    if preconditioning == "none":
        path = trained if not trained.whole else paths.vp_betas()
        plan = steering.plan("ddim", path=onto, trained=trained, steps=60, prediction="x0")

        def network(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = (f(t.to(torch.float64))[:, None].to(x.dtype) for f in (path.alpha, path.sigma))
            return mean + alpha * std**2 / ((alpha * std) ** 2 + sigma**2) * (x - alpha * mean)

        x = steering.run(plan, network, tuple(data.shape))
        assert float(x.mean()) == pytest.approx(mean, abs=0.15)
        assert float(x.std()) == pytest.approx(std, abs=0.1)
