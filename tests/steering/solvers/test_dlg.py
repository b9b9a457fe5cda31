"""Denoising Langevin Gibbs: what its chain keeps, on a mixture whose density is known at every noise level."""

from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

import steering
from steering.errors import PlanError, SteeringError
from steering.numerics.noise import Noise
from steering.plans.plan import Plan
from steering.problems import GaussianMixture, energy_distance
from steering.sampling.sampler import Problem
from steering.solvers import SOLVERS
from steering.solvers.dlg import LogDensity, State, categorical, chain, draw, flow, reflected
from steering.solvers.levels import NoiseLevel

from ..conftest import PATHS

N = 1500


def compiled(path: str, steps: int, **options: Any) -> Plan:
    return steering.plan("dlg", path=PATHS[path], steps=steps, prediction="x0", **options)


def density(mixture: GaussianMixture) -> LogDensity:
    """log sum_k pi_k N(m_k, S_k + rho^2 1), up to a constant."""
    values, vectors = torch.linalg.eigh(mixture.covariances)

    def log_density(points: Tensor, rho: Tensor) -> Tensor:
        offset = torch.einsum("kde,bkd->bke", vectors, points[:, None] - mixture.means)[:, None]
        variance = values + rho[:, None, None] ** 2
        terms = torch.log(mixture.weights) - 0.5 * (offset**2 / variance + torch.log(variance)).sum(dim=-1)
        return torch.logsumexp(terms, dim=-1)

    return log_density


def joint(plan: Plan, mixture: GaussianMixture, seed: int, n: int = N) -> State:
    """Exact draws of (y, lambda)."""
    g = torch.Generator().manual_seed(seed)
    low, high = plan.nodes[0].log_snr, plan.nodes[-1].log_snr
    level = NoiseLevel(low + (high - low) * torch.rand(n, generator=g, dtype=torch.float64))
    z = torch.randn(n, 2, generator=g, dtype=torch.float64)
    return level.alpha[:, None] * mixture.sample(n, seed) + level.sigma[:, None] * z, level.log_snr


def after(plan: Plan, mixture: GaussianMixture, state: State, log_density: LogDensity | None = None) -> State:
    """Where the chain takes a state."""
    problem = Problem(plan=plan, event=(2,), dtype=torch.float64)
    sweeps = chain(problem, Noise(7, range(len(state[0]))), state, log_density)
    return steering.solve(sweeps, mixture.network(plan.path), tile=None)


def uniform(plan: Plan, level: Tensor) -> float:
    """The Kolmogorov-Smirnov test's p-value for log-SNRs uniform over the plan's range."""
    low, high = plan.nodes[0].log_snr, plan.nodes[-1].log_snr
    return float(kstest(level.numpy(), "uniform", (low, high - low)).pvalue)


def apart(one: State, other: State) -> float:
    """Energy distance of two samples of the joint law."""
    return energy_distance(*(torch.cat([y, level[:, None] / 2], dim=1) for y, level in (one, other)))


@pytest.mark.parametrize("path", ["edm", "vp_cosine"])
@pytest.mark.parametrize(("conditional", "sweeps"), [("flow", 30), ("point", 5)])
def test_the_chain_keeps_the_marginal_of_sigma_and_the_joint_law(
    path: str, conditional: str, sweeps: int, mixture: GaussianMixture
):
    plan = compiled(path, sweeps)
    n = N if conditional == "flow" else 500
    start, exact = joint(plan, mixture, 1, n), joint(plan, mixture, 2)
    end = after(plan, mixture, start, density(mixture) if conditional == "point" else None)
    assert float((end[1] - start[1]).abs().mean()) > 0.5  # it does move
    assert uniform(plan, end[1]) > 0.01
    assert apart(end, exact) < 0.025 + abs(apart(start, exact))


def test_the_likeliest_level_in_place_of_a_draw_keeps_no_law(mixture: GaussianMixture):
    """The reference's shortcut, as a draw from the conditional to the power of 1e6: the test above can tell."""
    plan, exact = compiled("edm", 5), density(mixture)
    _, level = after(plan, mixture, joint(plan, mixture, 1, 500), lambda x, rho: 1e6 * exact(x, rho))
    assert uniform(plan, level) < 1e-6


@pytest.mark.parametrize("conditional", ["flow", "point"])
def test_a_chain_from_elsewhere_finds_the_marginal(conditional: str, mixture: GaussianMixture):
    """All at one level in the middle of the range, and there in its law."""
    plan = steering.plan("dlg", path=steering.paths.edm(0.1, 3.0), steps=25, prediction="x0", move=1.5)
    n = 300
    middle = torch.full((n,), (plan.nodes[0].log_snr + plan.nodes[-1].log_snr) / 2, dtype=torch.float64)
    level = NoiseLevel(middle)
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = level.alpha[:, None] * mixture.sample(n, 4) + level.sigma[:, None] * z
    _, reached = after(plan, mixture, (y, middle), density(mixture) if conditional == "point" else None)
    assert uniform(plan, middle) < 1e-6
    assert uniform(plan, reached) > 0.01


def test_the_marginal_is_exact_for_any_network():
    """Even one that knows nothing of the data."""
    plan = compiled("edm", 40)
    start = joint(plan, GaussianMixture.random(2, 3, 0), 1)
    problem = Problem(plan=plan, event=(2,), dtype=torch.float64)
    y, level = steering.solve(chain(problem, Noise(1, range(N)), start), lambda x, t: x * 0.3 - 1, tile=None)
    assert y.isfinite().all()
    assert uniform(plan, level) > 0.01


def test_reflection_keeps_the_uniform_law_and_inside_points():
    level = torch.tensor([0.3, -0.2, 1.3, 2.2, -1.6, 4.5], dtype=torch.float64)
    torch.testing.assert_close(
        reflected(level, 0.0, 1.0), torch.tensor([0.3, 0.2, 0.7, 0.2, 0.4, 0.5], dtype=torch.float64)
    )
    everywhere = torch.linspace(-4, 4, 80_001, dtype=torch.float64)[:-1]
    counts = torch.histc(reflected(everywhere, 0.0, 1.0), 10, 0.0, 1.0)
    assert float((counts / 8000 - 1).abs().max()) < 1e-3


def test_categorical_draws_follow_their_weights():
    weights = torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64)
    even = (torch.arange(10_000, dtype=torch.float64)[:, None] + 0.5) / 10_000
    drawn = categorical(torch.log(weights).expand(10_000, 4) + 5, even)
    assert torch.bincount(drawn, minlength=4).tolist() == [1000, 0, 6000, 3000]


@pytest.mark.parametrize("ends", [(-2.0, 3.0), (3.0, -2.0)])
def test_the_flow_is_of_second_order_both_ways(ends: tuple[float, float], mixture: GaussianMixture):
    problem = Problem(plan=compiled("edm", 1), event=(2,), dtype=torch.float64)
    s, t = (torch.full((16,), end, dtype=torch.float64) for end in ends)
    y = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = mixture.network(PATHS["edm"])
    coarse, fine, finest, truth = (steering.solve(flow(problem, y, s, t, k), network) for k in (20, 40, 80, 1280))
    first, second, third = (float((x - truth).norm()) for x in (coarse, fine, finest))
    assert 3.0 < first / second < 5.5
    assert 3.4 < second / third < 4.8
    assert SOLVERS["dlg"].order == 2


@pytest.mark.parametrize("path", ["edm", "rectified_flow"])
def test_samples_follow_the_data_and_take_the_rows_foreseen(path: str, mixture: GaussianMixture):
    plan = compiled(path, 15, denoise=8)
    x, report = steering.run(
        plan, mixture.network(PATHS[path]), (N, 2), seed=2, dtype=torch.float64, tile=None, report=True
    )
    exact, other = mixture.sample(N, 1), mixture.sample(N, 2)
    assert energy_distance(x / plan.nodes[-1].alpha, exact) < 0.02 + abs(energy_distance(exact, other))
    assert report.network_rows == N * plan.rows == N * (3 * 15 + 4 * 8)


def test_samples_by_the_known_conditional_follow_the_data(mixture: GaussianMixture):
    plan, n = compiled("edm", 3), 400
    problem, noise = Problem(plan=plan, event=(2,), dtype=torch.float64), Noise(0, range(n))
    first = noise.normal(0, 0, (2,)) * plan.nodes[0].sigma
    x = steering.solve(draw(problem, noise, first, density(mixture)), mixture.network(plan.path), tile=None)
    assert energy_distance(x, mixture.sample(N, 1)) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_does_not_depend_on_its_neighbours(dtype: torch.dtype, mixture: GaussianMixture):
    plan = compiled("vp_cosine", 6, denoise=3)
    network = mixture.network(plan.path)
    many = steering.run(plan, network, (21, 2), seed=5, dtype=dtype)
    for n in (1, 5, 18):
        assert torch.equal(steering.run(plan, network, (n, 2), seed=5, dtype=dtype), many[:n])


def test_what_it_cannot_do_is_refused(mixture: GaussianMixture):
    with pytest.raises(PlanError, match="'dlg' cannot run in reverse"):
        compiled("edm", 5, reverse=True)
    with pytest.raises(PlanError, match=r"denoise: expected a whole number in 1\.\.1000, got 2\.5"):
        compiled("edm", 5, denoise=2.5)
    with pytest.raises(SteeringError, match="solver 'dlg' cannot be steered"):
        steering.run(compiled("edm", 5), mixture.network(PATHS["edm"]), (2, 2), steer=steering.Doob(lambda x: x[:, 0]))
