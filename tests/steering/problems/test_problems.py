"""The closed forms that the other tests rest on, against quadrature, Monte Carlo and autograd."""

import math

import pytest
import torch
from torch import Tensor

from steering import paths
from steering.paths import Path
from steering.plans.predictions import PREDICTIONS, denoise
from steering.problems import (
    GaussianMixture,
    Projected,
    Quadratic,
    at_nats,
    energy_distance,
    sliced_wasserstein,
    wasserstein,
    zoo,
)

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


def test_log_density_is_the_textbooks(mixture: GaussianMixture):
    x = mixture.sample(5, 2)
    torch.testing.assert_close(mixture.log_density(x), density(mixture, x).log(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("curvature", [None, torch.tensor([[1.5, 0.6], [0.6, 0.4]], dtype=torch.float64)])
def test_tilted_is_the_density_times_the_weight(
    mixture: GaussianMixture, lattice: Tensor, beta: float, curvature: Tensor | None
):
    reward = lattice @ DIRECTION
    if curvature is not None:
        reward = reward - 0.5 * ((lattice @ curvature) * lattice).sum(dim=1)
    weighted = density(mixture, lattice) * torch.exp(reward / beta)
    total = float(weighted.sum()) * 0.05**2
    tilted = mixture.tilted(DIRECTION, beta, curvature)
    torch.testing.assert_close(density(tilted, lattice), weighted / total, rtol=1e-6, atol=1e-9)
    tilt = Quadratic(mixture, DIRECTION, curvature)
    torch.testing.assert_close(tilt.reward(lattice), reward, rtol=1e-12, atol=1e-12)
    assert tilt.scaled(1 / beta).log_z == pytest.approx(math.log(total), abs=1e-6)


MANY = GaussianMixture.random(dimension=6, components=3, seed=4)
PLANE = torch.randn(2, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
PULL = torch.tensor([0.8, -1.1], dtype=torch.float64)
TILTS: dict[str, Quadratic | Projected] = {
    "linear": Quadratic(MANY, PLANE[0]),
    "quadratic": Quadratic.about(MANY, MANY.means[1], 0.8),
    "half-space": Projected.rarest(MANY, PLANE[0], 0.02),
    "staircase": Projected(MANY, PLANE[:1], lambda s: s[..., 0].floor(), torch.arange(-9.0, 10, dtype=torch.float64)),
    "ring": Projected(MANY, PLANE, lambda s: -(s.norm(dim=-1) - 1.5).abs()),
    "product": Projected(MANY, PLANE, lambda s: 1.2 * s.clamp(-1, 1).prod(dim=-1)),
}
SCALES = torch.tensor([[0.99, 0.9, 0.6, 0.3], [0.14, 0.44, 0.8, 0.95]], dtype=torch.float64)


@pytest.mark.parametrize(("rank", "within"), [(1, 2e-6), (2, 1e-11)])
def test_a_linear_reward_on_the_grid_is_the_closed_form(rank: int, within: float):
    grid = Projected(MANY, PLANE[:rank], lambda s: s @ PULL[:rank])
    closed = Quadratic(MANY, PULL[:rank] @ PLANE[:rank])
    x, (alpha, sigma) = MANY.sample(4, 1), SCALES
    assert grid.log_z == pytest.approx(closed.log_z, abs=5e-5)
    assert grid.nats(0.7) == pytest.approx(closed.nats(0.7), abs=5e-5)
    torch.testing.assert_close(grid.log_h(x, alpha, sigma), closed.log_h(x, alpha, sigma), rtol=0, atol=25 * within)
    torch.testing.assert_close(grid.denoised(x, alpha, sigma), closed.denoised(x, alpha, sigma), rtol=0, atol=within)


@pytest.mark.parametrize("name", TILTS)
def test_the_steered_denoiser_moves_along_the_gradient_of_log_h(name: str):
    """D_h = D + (sigma^2 / alpha) grad log h."""
    tilt, (alpha, sigma) = TILTS[name], SCALES
    x = (alpha[:, None] * MANY.sample(4, 7) + sigma[:, None]).requires_grad_()
    (gradient,) = torch.autograd.grad(tilt.log_h(x, alpha, sigma).sum(), x)
    x = x.detach()
    expected = MANY.denoised(x, alpha, sigma) + (sigma**2 / alpha)[:, None] * gradient
    torch.testing.assert_close(
        tilt.denoised(x, alpha, sigma), expected, rtol=0, atol=5e-3
    )  # a kink's gradient is coarse


@pytest.mark.parametrize("name", TILTS)
def test_h_is_the_mean_weight_of_what_a_state_may_become(name: str):
    """Its mean over noised samples is Z at every noise level, and Monte Carlo's."""
    tilt, n = TILTS[name], 2000
    x = MANY.sample(400_000, 8)
    weights = torch.exp(tilt.reward(x))
    assert float(weights.mean().log()) == pytest.approx(tilt.log_z, abs=5 * float(weights.std() / weights.mean()) / 632)
    noise = torch.randn(n, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    alpha, sigma = torch.full((n,), 0.5, dtype=torch.float64), torch.full((n,), 0.9, dtype=torch.float64)
    if isinstance(tilt, Projected) and len(tilt.projection) == 2:
        n = 100  # thousands of nodes each
    h = torch.exp(tilt.log_h((0.5 * x[: len(noise)] + 0.9 * noise)[:n], alpha[:n], sigma[:n]) - tilt.log_z)
    assert float(h.mean()) == pytest.approx(1, abs=5 * float(h.std()) / math.sqrt(n))


@pytest.mark.parametrize("name", [name for name in TILTS if name != "quadratic"])
def test_samples_of_a_tilt_are_the_models_reweighted(name: str):
    tilt = TILTS[name]
    x = MANY.sample(400_000, 10)
    weights = torch.exp(tilt.reward(x))
    chosen = torch.multinomial(weights, 3000, generator=torch.Generator().manual_seed(1))
    found = tilt.sample(3000, 2)
    assert torch.equal(found, tilt.sample(3000, 2))
    assert abs(energy_distance(found, x[chosen])) < 0.004 < energy_distance(MANY.sample(3000, 3), x[chosen])


def test_strength_is_the_divergence_from_the_model():
    for tilt in (TILTS["quadratic"], TILTS["ring"]):
        strong = at_nats(tilt, 1.5)
        x = strong.sample(100_000, 3)
        assert float(strong.reward(x).mean()) - strong.log_z == pytest.approx(1.5, abs=0.02)


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
    x = Projected.half_space(mixture, DIRECTION, threshold).sample(n=20_000, seed=1)
    assert len(x) == 20_000
    assert float((x @ DIRECTION).min()) >= threshold
    torch.testing.assert_close(x.mean(dim=0), inside @ lattice / inside.sum(), rtol=0, atol=0.03)


@pytest.mark.parametrize("probability", [0.3, 1e-2, 1e-4, 1e-9])
def test_a_rare_half_space_has_its_probability_and_its_tail(probability: float):
    law = Projected.rarest(MANY, PLANE[0], probability)
    c, n = law.threshold, 20_000
    assert law.log_z == pytest.approx(math.log(probability), abs=1e-8)
    line = MANY.means @ PLANE[0], torch.einsum("i,kij,j->k", PLANE[0], MANY.covariances, PLANE[0]).sqrt()

    def above(s: Tensor) -> Tensor:
        return torch.special.ndtr((line[0] - s[:, None]) / line[1]) @ MANY.weights

    s = (law.sample(n, 1) @ PLANE[0]).sort().values
    assert float(s[0]) >= c
    # Kolmogorov's distance to the exact conditional law, whose 0.1% point is 1.95
    ranks = torch.arange(1, n + 1, dtype=torch.float64) / n
    assert float((1 - above(s) / probability - ranks).abs().max()) < 1.95 / math.sqrt(n)
    assert float(law.reward(law.sample(100, 2)).max()) == 0
    assert float(law.reward(MANY.sample(1000, 3)).min()) == -math.inf


@pytest.mark.parametrize("reward", zoo.REWARDS)
def test_the_zoos_cases_aim_at_their_law(reward: str):
    """What a method is told, on exact samples: of the strength asked for, and within the event."""
    c = zoo.case(8, reward, seed=3, nats=1.0)
    x = c.law.sample(20_000, 1)
    told = c.target.log_weight(c.target.reward(x))
    expected = 1.0 if c.target.threshold is None else -math.log(float(reward.removeprefix("half ")))
    assert float(told.mean()) - c.law.log_z == pytest.approx(expected, abs=0.04)
    assert float(c.target.log_weight(c.target.reward(c.model.sample(1000, 2))).mean()) < float(told.mean())


def test_probability_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"probability: expected a number in \(0, 1\), got 1\.5"):
        Projected.rarest(MANY, PLANE[0], 1.5)


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


def test_wasserstein_between_samples_by_hand():
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    assert float(wasserstein(x, y)) == pytest.approx(1 / 6)
    assert float(wasserstein(x, y, p=2)) == pytest.approx(math.sqrt(1 / 6))
    z = torch.randn(101, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(wasserstein(z, (z + 2).repeat(3, 1), p=2), torch.full((3,), 2.0, dtype=torch.float64))


def test_sliced_wasserstein_of_gaussians_is_the_closed_form():
    """Mean over directions of (m.u)^2 + (s_1 - s_2)^2, the first |m|^2 / d."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 10_000, 3, generator=g, dtype=torch.float64)
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    expected = math.sqrt(float(shift.square().sum()) / 3 + 0.5**2)
    assert sliced_wasserstein(x, shift + 1.5 * y, directions=500) == pytest.approx(expected, rel=0.03)
    assert sliced_wasserstein(x, y) < 0.04
