"""Mean-reverting diffusion: an ordinary path around a mean of each sample's own."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import paths
from steering.plans.predictions import PREDICTIONS
from steering.problems import GaussianMixture

MEANS = 3 * torch.randn(8, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
SOLVERS = [("ddim", 0.0), ("ddim", 1.0), ("heun", None), ("dpmpp_2m", 0.0)]


def test_alpha_is_the_integral_of_theta_and_sigma_comes_to_rest():
    path = paths.mean_reverting(theta_min=1.0, theta_max=5.0, sigma_inf=0.3)
    assert float(path.alpha(0.5)) == pytest.approx(math.exp(-(1.0 * 0.5 + 2.0 * 0.25)), rel=1e-14)
    assert float(path.sigma(50)) == pytest.approx(0.3, rel=1e-14)
    constant = paths.mean_reverting(theta_min=2.0, theta_max=2.0)
    assert float(constant.alpha(0.7)) == pytest.approx(math.exp(-1.4), rel=1e-14)


def test_marginals_are_those_of_the_sde():
    """d var / dt = -2 theta var + 2 theta sigma_inf^2 and d mean / dt = -theta mean, for y = x - mu from a point."""
    path = paths.mean_reverting(theta_min=0.5, theta_max=4.0, sigma_inf=0.3)
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    theta = 0.5 + 3.5 * t
    torch.testing.assert_close(path.alpha_dot(t), -theta * path.alpha(t), rtol=1e-12, atol=0)
    variance = path.sigma(t) ** 2
    torch.testing.assert_close(
        2 * path.sigma(t) * path.sigma_dot(t), 2 * theta * (0.09 - variance), rtol=1e-10, atol=1e-13
    )


@pytest.mark.parametrize("sigma_inf", [1.0, 0.4])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("solver", "eta"), SOLVERS)
def test_a_run_around_means_is_the_preserving_run_on_shifted_data(
    solver: str, eta: float | None, prediction: str, sigma_inf: float, mixture: GaussianMixture
):
    """y = (x - mu) / sigma_inf is variance preserving with beta = 2 theta; each sample has a mu of its own."""
    preserving = paths.vp_linear(beta_min=0.1, beta_max=20.0)
    reverting = paths.mean_reverting(theta_min=0.05, theta_max=10.0, sigma_inf=sigma_inf)
    exact = mixture.network(preserving, "x0")
    state_of, out_of = (lambda t, k=k: PREDICTIONS[prediction](reverting, t)[k][:, None] for k in (0, 1))

    def network(x: Tensor, t: Tensor, mu: Tensor) -> Tensor:
        y = x - mu
        x0 = sigma_inf * exact(y / sigma_inf, t)  # of y; an x0 network says x_0 itself
        return x0 + mu if prediction == "x0" else (x0 - state_of(t) * y) / out_of(t)

    arguments: dict[str, Any] = {"steps": 8, "eta": eta, "grid": "logsnr"}
    expected = steering.run(
        steering.plan(solver, path=preserving, prediction="x0", **arguments), exact, (8, 2), seed=3, dtype=torch.float64
    )
    drawn = steering.run(
        steering.plan(solver, path=reverting, prediction=prediction, **arguments), network, (8, 2), seed=3,
        dtype=torch.float64, condition={"mu": MEANS}, mean=MEANS,
    )  # fmt: skip
    torch.testing.assert_close(drawn, MEANS + sigma_inf * expected, rtol=0, atol=1e-12)


def test_a_mean_for_all_is_the_same_mean_for_each(mixture: GaussianMixture):
    path = paths.mean_reverting()
    plan = steering.plan("dpmpp_2m", path=path, steps=5, prediction="eps")
    network = mixture.network(path, "eps")
    one = steering.run(plan, network, (4, 2), mean=MEANS[:1])
    assert torch.equal(one, steering.run(plan, network, (4, 2), mean=MEANS[:1].expand(4, 2)))
