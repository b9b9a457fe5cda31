"""The closed forms that the other tests rest on, against quadrature, Monte Carlo and autograd."""

import math

import pytest
import torch
from torch import Tensor

from steering import paths
from steering.paths import Path
from steering.predictions import PREDICTIONS, denoise
from steering.problems import GaussianMixture, energy_distance

DIRECTION = torch.tensor([1.2, -0.7], dtype=torch.float64)


def density(law: GaussianMixture, x: Tensor) -> Tensor:
    """Of rows x [n, d], by the textbook."""
    parts = torch.distributions.MultivariateNormal(law.means, law.covariances)
    return (law.weights * parts.log_prob(x[:, None]).exp()).sum(dim=1)


@pytest.fixture(scope="module")
def lattice() -> Tensor:
    """Points 0.05 apart that cover the mixture: sums over them are integrals to many digits."""
    axis = torch.arange(-5, 5, 0.05, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis)


@pytest.mark.parametrize(("alpha", "sigma"), [(0.99, 0.14), (0.8, 0.6), (0.3, 0.95), (1.0, 3.0)])
def test_denoised_is_the_posterior_mean_by_quadrature(
    mixture: GaussianMixture, lattice: Tensor, alpha: float, sigma: float
):
    prior = density(mixture, lattice)
    x = alpha * mixture.sample(5, 1) + sigma * torch.randn(5, 2, dtype=torch.float64)
    likelihood = torch.exp(-0.5 * ((x[:, None] - alpha * lattice) ** 2).sum(dim=2) / sigma**2)
    posterior = prior * likelihood
    expected = posterior @ lattice / posterior.sum(dim=1, keepdim=True)
    found = mixture.denoised(x, torch.full((5,), alpha), torch.full((5,), sigma))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_every_row_has_its_own_scales(mixture: GaussianMixture):
    x = mixture.sample(3, 1)
    alpha, sigma = torch.tensor([[1.0, 0.5, 0.9], [0.2, 0.7, 1.5]], dtype=torch.float64)
    together = mixture.denoised(x, alpha, sigma)
    alone = [mixture.denoised(x[i : i + 1], alpha[i : i + 1], sigma[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-14)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_its_network_speaks_every_parameterisation(mixture: GaussianMixture, path: Path, prediction: str):
    t = path.t_min + 0.3 * (path.t_max - path.t_min)
    x = torch.randn(4, 2, dtype=torch.float64) * float(path.sigma(t))
    times = torch.full((4,), t, dtype=torch.float64)
    found = denoise(path, t, prediction)(x, mixture.network(path, prediction)(x, times))
    torch.testing.assert_close(found, mixture.denoised(x, path.alpha(times), path.sigma(times)), rtol=0, atol=1e-11)


def test_the_score_it_predicts_is_the_gradient_of_its_noised_density(mixture: GaussianMixture):
    path, t = paths.rectified_flow(), 0.4
    alpha, sigma = 0.6, 0.4
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    noised = GaussianMixture(
        mixture.weights,
        alpha * mixture.means,
        alpha**2 * mixture.covariances + sigma**2 * torch.eye(2, dtype=torch.float64),
    )
    (score,) = torch.autograd.grad(density(noised, x).log().sum(), x)
    found = mixture.network(path, "score")(x.detach(), torch.full((6,), t, dtype=torch.float64))
    torch.testing.assert_close(found, score, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_tilted_is_the_density_times_the_weight(mixture: GaussianMixture, lattice: Tensor, beta: float):
    weighted = density(mixture, lattice) * torch.exp(lattice @ DIRECTION / beta)
    expected = weighted / weighted.sum() / 0.05**2
    torch.testing.assert_close(density(mixture.tilted(DIRECTION, beta), lattice), expected, rtol=1e-6, atol=1e-9)


def test_samples_have_the_mixtures_moments(mixture: GaussianMixture):
    n = 50_000
    x = mixture.sample(n, 3)
    mean = mixture.weights @ mixture.means
    centred = mixture.means - mean
    covariance = (mixture.weights[:, None, None] * (mixture.covariances + centred[:, :, None] * centred[:, None])).sum(
        0
    )
    error = covariance.diagonal().sqrt() / math.sqrt(n)
    assert bool(((x.mean(dim=0) - mean).abs() < 5 * error).all())
    torch.testing.assert_close(torch.cov(x.T), covariance, rtol=0, atol=0.05)
    assert torch.equal(x, mixture.sample(n, 3))
    assert not torch.equal(x, mixture.sample(n, 4))


def test_samples_in_many_dimensions_fit_in_memory():
    """A covariance for each sample would take 64 GB."""
    assert GaussianMixture.random(400, 2, seed=0).sample(50_000, 0).shape == (50_000, 400)


def test_conditioned_is_the_law_given_the_event(mixture: GaussianMixture, lattice: Tensor):
    threshold = 1.0
    inside = density(mixture, lattice) * (lattice @ DIRECTION >= threshold)
    x = mixture.conditioned(DIRECTION, threshold, n=20_000, seed=1)
    assert len(x) == 20_000
    assert float((x @ DIRECTION).min()) >= threshold
    torch.testing.assert_close(x.mean(dim=0), inside @ lattice / inside.sum(), rtol=0, atol=0.03)


def test_energy_distance_of_two_gaussians_on_a_line():
    """E |N(m, s^2)| in closed form."""

    def mean_length(m: float, s: float) -> float:
        return s * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * s**2)) + m * math.erf(m / (s * math.sqrt(2)))

    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3000, 1, generator=g, dtype=torch.float64)
    y = 1.0 + 0.5 * y
    expected = 2 * mean_length(1.0, math.sqrt(1.25)) - mean_length(0, math.sqrt(2)) - mean_length(0, math.sqrt(0.5))
    assert energy_distance(x, y) == pytest.approx(expected, rel=0.06)


def test_energy_distance_is_unbiased_at_equal_laws(mixture: GaussianMixture):
    found = torch.tensor(
        [energy_distance(mixture.sample(100, 2 * i), mixture.sample(100, 2 * i + 1)) for i in range(40)]
    )
    assert abs(float(found.mean())) < 4 * float(found.std()) / math.sqrt(40)
    assert float(found.min()) < 0 < float(found.max())
