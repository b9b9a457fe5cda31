"""Log-likelihoods against closed forms: both laws, exact and estimated traces, both precisions, and conditions."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import Noise, Problem
from steering.flow.likelihood import Likelihood, bits_per_dimension, log_likelihood
from steering.paths import Path
from steering.problems import GaussianMixture

SIX = GaussianMixture.random(dimension=6, components=5, seed=1)
N = 24


def log_density(law: GaussianMixture, x: Tensor, rho: float = 0.0) -> Tensor:
    """log density of x_0 + rho eps, by torch's own distributions."""
    covariances = law.covariances + rho**2 * torch.eye(x.shape[1], dtype=torch.float64)
    components = torch.distributions.MultivariateNormal(law.means, covariances)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(law.weights), components)
    return mixture.log_prob(x)


def measured(
    mixture: GaussianMixture, path: Path, x: Tensor, steps: int = 60, dtype: torch.dtype = torch.float64, seed: int = 0,
    **how,
) -> Likelihood:  # fmt: skip
    plan = steering.plan("ddim", path=path, steps=steps, prediction="x0", grid="logsnr")
    program = log_likelihood(
        Problem(plan=plan, event=tuple(x.shape[1:]), dtype=dtype), x, Noise(seed, range(len(x))), **how
    )
    return steering.solve(program, mixture.network(path), tile=None)


@pytest.mark.parametrize("path", ["vp_cosine", "vp_linear", "ve", "edm", "rectified_flow"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_exact_traces_give_the_density_of_a_mixture(path: Path, dtype: torch.dtype):
    x = SIX.sample(N, 3)
    result = measured(SIX, path, x, dtype=dtype, exact=True)
    assert float((result.log_density - log_density(SIX, x)).abs().max()) / 6 < 1e-3
    assert not result.standard_error.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("prediction", ["eps", "v", "velocity", "score"])
def test_every_prediction(prediction: str, dtype: torch.dtype):
    path, x = steering.paths.vp_cosine(), SIX.sample(8, 3)
    plan = steering.plan("ddim", path=path, steps=60, prediction=prediction)
    program = log_likelihood(Problem(plan=plan, event=(6,), dtype=dtype), x, Noise(0, range(8)), exact=True)
    result = steering.solve(program, SIX.network(path, prediction), tile=None)
    assert float((result.log_density - log_density(SIX, x)).abs().max()) / 6 < 1e-3


def test_a_gaussian_has_no_error_but_the_integrators(path: Path):
    """Neither the end at t_max nor probes matter for N(m, v): D's Jacobian is a multiple of the identity."""
    m = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    gaussian = GaussianMixture(torch.ones(1, dtype=torch.float64), m, torch.eye(3, dtype=torch.float64)[None] * 0.3)
    x = gaussian.sample(N, 0)
    result = measured(gaussian, path, x, steps=100, probes=2)
    rho = float(path.sigma(path.t_min) / path.alpha(path.t_min))
    truth = log_density(gaussian, x, rho)
    assert torch.allclose(result.log_density - result.offset, truth, atol=1e-4, rtol=0)
    assert float(result.standard_error.max()) < 1e-5


def test_the_integrator_has_order_four():
    path, x = steering.paths.edm(0.05, 20.0), SIX.sample(4, 3)
    values = [measured(SIX, path, x, steps=steps, exact=True).log_density for steps in (40, 80, 160, 480)]
    errors = [float((value - values[-1]).norm()) for value in values[:-1]]
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([4, 4], abs=0.4)


def test_the_offset_leads_from_t_min_to_the_data():
    """From rho 0.1 down: the density there is smoother by 1% of a variance; a single step of the heat equation."""
    path, x = steering.paths.edm(0.1, 80.0), SIX.sample(N, 3)
    result = measured(SIX, path, x, exact=True)
    at_end, data = log_density(SIX, x, 0.1), log_density(SIX, x)
    assert torch.allclose(result.log_density - result.offset, at_end, atol=1e-3, rtol=0)
    left, whole = (result.log_density - data).square().mean().sqrt(), (at_end - data).square().mean().sqrt()
    assert float(left) < 0.4 * float(whole)
    # what is left is of the second order in rho^2
    nearer = measured(SIX, steering.paths.edm(0.05, 80.0), x, exact=True)
    assert float((nearer.log_density - data).square().mean().sqrt()) < float(left) / 8


def test_probes_are_unbiased_within_their_standard_error():
    path, x = steering.paths.vp_cosine(), SIX.sample(64, 3)
    exact = measured(SIX, path, x, steps=30, exact=True).log_density
    result = measured(SIX, path, x, steps=30, probes=8)
    z = (result.log_density - exact) / result.standard_error
    assert abs(float((result.log_density - exact).mean())) < 4 * float(result.standard_error.mean()) / 8
    assert 0.6 < float(z.square().mean().sqrt()) < 1.8


def test_more_probes_come_nearer_and_a_single_one_shows_no_error():
    path, x = steering.paths.vp_cosine(), SIX.sample(32, 3)
    exact = measured(SIX, path, x, steps=20, exact=True).log_density
    one, many = (measured(SIX, path, x, steps=20, probes=k) for k in (1, 16))
    errors = [float((result.log_density - exact).square().mean().sqrt()) for result in (one, many)]
    assert errors[1] < 0.5 * errors[0]
    assert one.standard_error.isnan().all()
    assert one.network_rows == 32 * (4 * 20 * 3 + 2 * 3 + 1)
    assert many.network_rows == 32 * (4 * 20 * 33 + 2 * 33 + 1)


def test_the_law_of_the_sampler_is_that_of_what_is_drawn():
    """From N(0, sigma_max^2), and no more noise than rho 2: far from the data's law, and a Gaussian all the same."""
    path = steering.paths.edm(0.01, 2.0)
    m, v = torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor([0.3, 0.3], dtype=torch.float64)
    gaussian = GaussianMixture(torch.ones(1, dtype=torch.float64), m, torch.diag(v)[None])
    growth = torch.sqrt((v + 0.01**2) / (v + 4))
    drawn = GaussianMixture(torch.ones(1, dtype=torch.float64), m * (1 - growth), torch.diag((2 * growth) ** 2)[None])
    x = drawn.sample(N, 0)
    result = measured(gaussian, path, x, law="sampler", exact=True)
    assert torch.allclose(result.log_density, log_density(drawn, x), atol=1e-4, rtol=0)
    assert not result.offset.any()
    plan = steering.plan("dpmpp_2m", path=path, steps=200, prediction="x0")
    samples = steering.run(plan, gaussian.network(path), (2000, 2), dtype=torch.float64, tile=None)
    assert torch.allclose(samples.mean(0), drawn.means[0], atol=0.05)
    assert torch.allclose(samples.var(0), drawn.covariances[0].diagonal(), rtol=0.15)


def test_the_law_of_the_sampler_on_a_shrinking_path():
    """At t_min of a path with alpha below 1, states are alpha x_0: the density counts the smaller volume."""
    path = steering.paths.rectified_flow(t_min=0.3)
    one = torch.ones(1, dtype=torch.float64)
    gaussian = GaussianMixture(one, torch.zeros(1, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)[None])
    last = steering.plan("ddim", path=path, steps=2, prediction="x0").nodes[-1]
    state = GaussianMixture(one, gaussian.means, gaussian.covariances * (last.alpha**2 + last.sigma**2))
    x = state.sample(N, 0)
    result = measured(gaussian, path, x, law="sampler", exact=True)
    assert torch.allclose(result.log_density, log_density(state, x), atol=1e-4, rtol=0)


PATH = steering.paths.vp_cosine()
PLAN = steering.plan("ddim", path=PATH, steps=60, prediction="x0")


def labelled(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """Denoiser of N(label, 0.25) in every dimension."""
    alpha, sigma = (c[:, None] for c in (PATH.alpha(t.double()), PATH.sigma(t.double())))
    m = label.to(torch.float64)[:, None]
    return (m + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (x.double() - alpha * m)).to(x.dtype)


def log_normal(x: Tensor, m: Tensor, variance: float = 0.25) -> Tensor:
    return (-0.5 * ((x - m) ** 2 / variance + math.log(2 * math.pi * variance))).sum(1)


def test_a_conditional_density_is_that_of_x_given_the_condition():
    label = torch.tensor([0, 1, 2, 3])
    x = label[:, None] + 0.5 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = Problem(plan=PLAN, event=(2,), dtype=torch.float64, condition={"label": label})
    result = steering.solve(log_likelihood(problem, x, Noise(0, range(4))), labelled)
    assert torch.allclose(result.log_density, log_normal(x, label[:, None]), atol=1e-3, rtol=0)


def test_the_guided_sampler_has_a_density_too():
    """Guided N(1, v) against N(0, v) by w = 3: the flow of N(3, v), started at N(0, sigma_max^2)."""
    problem = Problem(
        plan=PLAN,
        event=(2,),
        dtype=torch.float64,
        condition={"label": torch.ones(4)},
        guidance=3.0,
        null={"label": torch.zeros(1)},
    )
    x = 3 + 0.5 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = steering.solve(log_likelihood(problem, x, Noise(0, range(4)), law="sampler"), labelled)
    first, last = PLAN.nodes[0], PLAN.nodes[-1]
    growth = math.sqrt((last.alpha**2 * 0.25 + last.sigma**2) / (first.alpha**2 * 0.25 + first.sigma**2))
    mean = torch.tensor(last.alpha * 3 - growth * first.alpha * 3)
    assert torch.allclose(result.log_density, log_normal(x, mean, (growth * first.sigma) ** 2), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match=r"guidance: expected 1 for law 'data', .* got 3.0; law 'sampler'"):
        steering.solve(log_likelihood(problem, x, Noise(0, range(4))), labelled)


def test_a_mean_shifts_the_density():
    mean = torch.tensor([[5.0, -1.0], [2.0, 2.0]], dtype=torch.float64)

    def network(x: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        return mean + labelled(x - mean, t, torch.zeros(len(x)))

    x = mean + torch.tensor([[0.1, 0.5], [-0.3, 0.0]], dtype=torch.float64)
    problem = Problem(plan=PLAN, event=(2,), dtype=torch.float64, condition={"mean": mean}, mean=mean)
    result = steering.solve(log_likelihood(problem, x, Noise(0, range(2))), network)
    assert torch.allclose(result.log_density, log_normal(x, mean), atol=1e-3, rtol=0)


def test_rows_are_pure():
    x = SIX.sample(20, 0).to(torch.float32)
    every, few = (measured(SIX, PATH, x[:k], steps=4, dtype=torch.float32, seed=2) for k in (20, 3))
    assert torch.equal(every.log_density[:3], few.log_density)
    assert torch.equal(every.standard_error[:3], few.standard_error)
    other = measured(SIX, PATH, x[:3], steps=4, dtype=torch.float32, seed=3)
    assert not torch.equal(other.log_density, few.log_density)


def test_bits_per_dimension():
    """A uniform density over [-1, 1]^d costs the 8 bits of its 256 bins."""
    log_p = torch.full((1,), -12 * math.log(2.0), dtype=torch.float64)
    assert bits_per_dimension(log_p, (3, 4), bin_width=2 / 256) == pytest.approx(8)
    assert bits_per_dimension(log_p, (3, 4)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"dtype": torch.float16}, "dtype: expected float32 or float64, .* got torch.float16"),
        ({"dtype": torch.bfloat16}, "got torch.bfloat16"),
        ({"x": torch.zeros(2, 6, dtype=torch.int64)}, "x: expected floating point, .* got torch.int64"),
        ({"x": torch.zeros(2, 5)}, r"x: expected shape \[2, 6\], got \[2, 5\]"),
        ({"x": torch.zeros(3, 6)}, r"x: expected shape \[2, 6\], got \[3, 6\]"),
        ({"probes": 0}, "probes: expected an integer >= 1, got 0"),
        ({"law": "model"}, "law: expected one of data, sampler, got 'model'"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], complaint: str):
    problem = Problem(plan=PLAN, event=(6,), dtype=changes.pop("dtype", torch.float32))
    arguments = {"x": torch.zeros(2, 6), **changes}
    with pytest.raises(ValueError, match=complaint):
        steering.solve(log_likelihood(problem, noise=Noise(0, range(2)), **arguments), SIX.network(PATH))
