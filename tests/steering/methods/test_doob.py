"""Doob's transform: the identity, what it must leave alone, the laws it must reach, its costs and its refusals."""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any, TypeVar

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

import steering
from steering import paths, posteriors
from steering.errors import SteeringError
from steering.methods.correction import DoobTilt
from steering.methods.doob import BANK_SIZE, bank_size
from steering.numerics.noise import Noise
from steering.paths import Path
from steering.plans.plan import Plan
from steering.posteriors.calibration import Calibration, Uncalibrated
from steering.problems import GaussianMixture, Projected, energy_distance
from steering.sampling.rows import Rows, answered
from steering.sampling.sampler import Problem, Report
from steering.targets.rewards import half_space, linear
from steering.targets.target import Target
from tests.steering.conftest import PATHS

Result = TypeVar("Result")
Doob = partial(steering.Doob, refresh=False)  # most banks here are small; growing them has tests of its own
PATH = paths.vp_cosine()
CURVE = Calibration((0.001, 0.5, 0.99), (0.0001, 0.1, 0.4))
PLANS = [("ddim", 0.0), ("ddim", 1.0), ("euler", 0.0), ("heun", 0.0), ("dpmpp_2m", 0.0), ("dpmpp_2m", 1.0)]
SAMPLES = GaussianMixture.random(2, 3, seed=0).sample(300, 9)
POSTERIORS: dict[str, Callable[[], posteriors.Bank | posteriors.Local]] = {
    "bank": lambda: posteriors.bank(SAMPLES.float(), calibration=CURVE),
    "gaussian": lambda: posteriors.gaussian(CURVE),
    "mixture": lambda: posteriors.mixture(SAMPLES.float(), CURVE),
    "bank of a mixture": lambda: posteriors.bank(SAMPLES.float(), "mixture", CURVE),
    "rollout": lambda: posteriors.rollout(2),
    "neighbours": lambda: posteriors.neighbours(SAMPLES.float(), CURVE),
    "bank of events": lambda: posteriors.bank(SAMPLES.float(), "neighbours", CURVE),
}


def compiled(solver: str = "dpmpp_2m", eta: float = 0.0, steps: int = 20, path: Path = PATH) -> Plan:
    return steering.plan(solver, path=path, steps=steps, prediction="x0", eta=eta)


def perceptron(x: Tensor, t: Tensor) -> Tensor:
    """Matrix products, whose last bits depend on the number of rows a call gets."""
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 96, generator=g), torch.randn(96, 2, generator=g) / 20
    return torch.tanh(x @ first.to(x.dtype) + t[:, None]) @ second.to(x.dtype)


def skewed(x: Tensor) -> Tensor:
    """A reward that is neither linear nor smooth."""
    return 3 * x[:, 0] - x[:, 1].abs() + (x[:, 1] > 0.5)


# The identity D_h = E[x_0 w | x_t] / E[w | x_t] = D + (sigma^2 / alpha) grad log h, h = E[w | x_t].


@pytest.mark.parametrize("t", [0.05, 0.3, 0.6, 0.95])
def test_the_weighted_posterior_mean_is_doobs_transform_on_a_mixture(mixture: GaussianMixture, t: float):
    """r = <a, x> has log h in closed form: E exp r = exp(a m~ + a C~ a / 2) in each component of the posterior."""
    a = torch.tensor([1.5, -1.0], dtype=torch.float64)
    alpha, sigma = PATH.alpha(t), PATH.sigma(t)
    x = (alpha * mixture.sample(8, 1) + sigma * torch.randn(8, 2, dtype=torch.float64)).requires_grad_()
    marginal = alpha**2 * mixture.covariances + sigma**2 * torch.eye(2, dtype=torch.float64)
    gain = alpha * torch.linalg.solve(marginal, mixture.covariances).mT
    means = mixture.means + (gain @ (x[:, None] - alpha * mixture.means)[..., None]).squeeze(-1)
    spread = mixture.covariances - alpha * gain @ mixture.covariances
    parts = torch.distributions.MultivariateNormal(alpha * mixture.means, marginal)
    log_pi = torch.log_softmax(mixture.weights.log() + parts.log_prob(x[:, None]), dim=1)
    log_h = torch.logsumexp(log_pi + means @ a + 0.5 * (spread @ a) @ a, dim=1)
    (gradient,) = torch.autograd.grad(log_h.sum(), x)
    scales = alpha.expand(8), sigma.expand(8)
    steered = mixture.denoised(x.detach(), *scales) + sigma**2 / alpha * gradient
    # the weighted posterior mean is the posterior mean of the tilted law
    torch.testing.assert_close(mixture.tilted(a).denoised(x.detach(), *scales), steered, rtol=0, atol=1e-12)


def test_the_banks_correction_is_doobs_transform_on_its_samples(path: Path):
    """On the law that is the bank itself, log h is a difference of two log-sums, and autograd gives its gradient."""
    scores = skewed(SAMPLES)
    union = posteriors.Union(posteriors.Cloud(SAMPLES), scores, len(SAMPLES))
    tilted = posteriors.TiltedBank.of(union, Target(skewed, beta=0.8), torch.float64)
    for stage in compiled(steps=10, path=path).stages:
        at = stage.update.at
        x = (at.alpha * SAMPLES[:20] + at.sigma * torch.randn(20, 2, dtype=torch.float64)).requires_grad_()
        logits = -((x[:, None] - at.alpha * SAMPLES) ** 2).sum(dim=2) / (2 * at.sigma**2)
        log_h = torch.logsumexp(logits + scores / 0.8, dim=1) - torch.logsumexp(logits, dim=1)
        (gradient,) = torch.autograd.grad(log_h.sum(), x)
        correcting = tilted.correction(x.detach(), at)
        correction, prior_size, rewarded_size, _ = scored(correcting, lambda x: x)
        torch.testing.assert_close(correction, at.sigma**2 / at.alpha * gradient, rtol=1e-7, atol=1e-9)
        for sizes in (prior_size, rewarded_size):
            assert bool(((sizes > 0.999) & (sizes < len(SAMPLES) * 1.001)).all())


def scored(rows: Generator[Rows, Tensor, Result], reward: Callable[[Tensor], Tensor]) -> Result:
    """What a generator that asks for rewards and products alone returns."""
    return answered(rows, lambda asked: reward(asked.x) if asked.matrix is None else asked.matrix.times(asked.x))


def prepared(doob: steering.Doob, plan: Plan, x: Tensor) -> DoobTilt:
    return scored(doob.prepare(Problem(plan=plan, event=tuple(x.shape[1:]), dtype=x.dtype)), doob.reward)


def steered_once(doob: steering.Doob, plan: Plan, index: int, x: Tensor, denoised: Tensor) -> Tensor:
    """What steering makes of the denoised estimate at one stage."""
    rows = prepared(doob, plan, x).steer(plan.stages[index], x, denoised, Noise(0, range(len(x))))
    return scored(rows, doob.reward).denoised


def test_a_large_bank_finds_the_exact_transform(mixture: GaussianMixture):
    a = torch.tensor([1.5, -1.0], dtype=torch.float64)
    plan = compiled()
    bank = posteriors.bank(mixture.sample(20_000, 3), calibration=CURVE)
    doob = Doob(lambda x: x @ a, posterior=bank)
    for index in (3, 6, 9):
        at = plan.stages[index].update.at
        x = at.alpha * mixture.sample(8, 1) + at.sigma * torch.randn(8, 2, dtype=torch.float64)
        scales = torch.full((8,), at.alpha), torch.full((8,), at.sigma)
        denoised, exact = (law.denoised(x, *scales) for law in (mixture, mixture.tilted(a)))
        found = steered_once(doob, plan, index, x, denoised)
        assert float((found - exact).norm() / (exact - denoised).norm()) < 0.05


def test_a_sample_that_left_the_bank_stays_off_it():
    plan, noise = compiled(), Noise(0, range(2))
    doob = Doob(skewed, 2.0, 16, POSTERIORS["bank"]())
    early, middle = plan.stages[2], plan.stages[11]
    # at the middle stage a sample of the bank has 74 near it, a state far out has 2
    x = middle.update.at.alpha * torch.stack([SAMPLES[0], 3 * SAMPLES[0]]).float()
    tilt = prepared(doob, plan, x)
    for stage, on_bank, off_bank in ((early, 2, 0), (middle, 3, 1), (early, 4, 2), (middle, 5, 3)):
        scored(tilt.steer(stage, x, x, noise), doob.reward)
        assert (tilt.methods["bank"], tilt.methods["average"]) == (on_bank, off_bank)


@pytest.mark.parametrize("index", [2, 8, 14])
def test_many_gaussian_particles_find_the_exact_transform_of_a_gaussian(index: int):
    """On N(0, v I), D_h = D + V a / beta."""
    v, beta, a = 0.5, 0.7, torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
    plan = compiled()
    at = plan.stages[index].update.at
    x = torch.randn(6, 3, dtype=torch.float64)
    denoised = at.alpha * v / (at.alpha**2 * v + at.sigma**2) * x
    doob = Doob(lambda y: y @ a, beta, particles=20_000, posterior=posteriors.Gaussian(Uncalibrated(v)))
    correction = steered_once(doob, plan, index, x, denoised) - denoised
    exact = Uncalibrated(v).variance(PATH, at.t) * a / beta
    assert float((correction - exact).norm(dim=1).max() / exact.norm()) < 0.08


def test_the_corrections_error_falls_with_the_square_root_of_the_particles():
    """On N(0, v I) and a staircase, D_h is known through the one projection that the reward sees."""
    v, plan, index = 0.5, compiled(), 8
    at = plan.stages[index].update.at
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    denoised = at.alpha * v / (at.alpha**2 * v + at.sigma**2) * x
    spread = Uncalibrated(v).variance(PATH, at.t) ** 0.5
    z = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    logs = (2 * (denoised[:, :1] + spread * z)).floor() / 2 - z**2 / 2
    exact = denoised.clone()
    exact[:, 0] += spread * (torch.softmax(logs, dim=1) * z).sum(dim=1)
    errors = []
    for particles in (64, 256, 1024):
        posterior = posteriors.Gaussian(Uncalibrated(v))
        doob = Doob(lambda y: (2 * y[:, 0]).floor() / 2, particles=particles, posterior=posterior)
        found = steered_once(doob, plan, index, x, denoised)
        errors.append(float((found - exact).square().mean().sqrt()))
    slopes = [math.log(b / a) / math.log(4) for a, b in pairwise(errors)]
    assert slopes == pytest.approx([-0.5, -0.5], abs=0.06)


# What a reward that says nothing must leave alone.


def constant(value: float, x: Tensor) -> Tensor:
    return torch.full((len(x),), value)


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize(("solver", "eta"), PLANS)
def test_a_flat_reward_leaves_every_bit_alone(solver: str, eta: float, posterior: str):
    plan = compiled(solver, eta, steps=10)
    plain = steering.run(plan, perceptron, (20, 2), seed=3)
    for value in (0.1, -1e6, -math.inf):
        doob = Doob(partial(constant, value), 0.3, 8, POSTERIORS[posterior]())
        assert torch.equal(steering.run(plan, perceptron, (20, 2), seed=3, steer=doob), plain)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_flat_reward_leaves_every_bit_alone_on_every_path_and_with_a_bank_of_its_own(path: Path):
    plan = compiled(path=path, steps=6)
    plain = steering.run(plan, perceptron, (20, 2), seed=3, dtype=torch.float64)
    doob = Doob(partial(constant, 1.0), particles=8)
    assert torch.equal(steering.run(plan, perceptron, (20, 2), seed=3, dtype=torch.float64, steer=doob), plain)


def test_a_flat_reward_leaves_even_zeros_of_either_sign_alone():
    def network(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(x > 0, 0.0, -0.0)

    plan = compiled("ddim", 0.0, steps=1)
    x_init = torch.tensor([[1.0, -1.0], [-0.0, 0.0]])
    for make in POSTERIORS.values():
        doob = Doob(partial(constant, 1.0), particles=8, posterior=make())
        x = steering.run(plan, network, (2, 2), x_init=x_init, steer=doob)
        assert torch.equal(1 / x, 1 / steering.run(plan, network, (2, 2), x_init=x_init))


def test_only_differences_of_rewards_steer():
    plan = compiled(steps=10)
    low = Doob(lambda x: x[:, 0].round(), posterior=POSTERIORS["bank"]())
    high = Doob(lambda x: x[:, 0].round() + 64, posterior=POSTERIORS["bank"]())
    assert torch.equal(*(steering.run(plan, perceptron, (20, 2), steer=doob) for doob in (low, high)))


# The tilted law.


def figures(x: Tensor, exact: Tensor, direction: Tensor) -> tuple[float, float]:
    """Distances of two laws, and of their rewards' laws."""
    x = x.to(torch.float64)
    return energy_distance(x, exact), wasserstein_distance((x @ direction).numpy(), (exact @ direction).numpy())


@cache
def random_problem(
    dimension: int, reward: str
) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor, steering.Doob, Tensor]:
    """A network, a direction, steering with a bank of the network's samples, and samples of the exact tilted law."""
    seed = 10 * dimension + len(reward)
    law = GaussianMixture.random(dimension, 4, seed)
    g = torch.Generator().manual_seed(seed)
    direction = torch.randn(dimension, generator=g, dtype=torch.float64)
    direction *= 2 / direction.norm()
    network = law.network(PATH)
    bank = posteriors.bank(steering.run(compiled(), network, (4096, dimension), seed=77, tile=None))
    if reward == "linear":
        exact = law.tilted(direction).sample(1500, 5)
        return network, direction, Doob(lambda x: linear(x, direction.float()), posterior=bank), exact
    threshold = float((law.sample(50_000, 6) @ direction).quantile(0.9))
    exact = Projected.half_space(law, direction, threshold).sample(1500, 5)
    return network, direction, Doob(lambda x: half_space(x, direction.float(), threshold), posterior=bank), exact


@pytest.mark.parametrize(("solver", "eta"), [("dpmpp_2m", 0.0), ("heun", 0.0), ("dpmpp_2m", 1.0)])
@pytest.mark.parametrize("reward", ["linear", "half_space"])
@pytest.mark.parametrize("dimension", [2, 8])
def test_steered_samples_follow_the_exact_tilted_law(dimension: int, reward: str, solver: str, eta: float):
    """Random mixtures; the exact law is drawn from its closed form or by rejection."""
    n, plan = 500, compiled(solver, eta)
    network, direction, doob, exact = random_problem(dimension, reward)
    plain = figures(steering.run(plan, network, (n, dimension), seed=1, tile=None), exact, direction)
    x, report = steering.run(plan, network, (n, dimension), seed=1, steer=doob, tile=None, report=True)
    steered, floor = figures(x, exact, direction), figures(exact[:n], exact[n:], direction)
    print(  # shown by pytest -s and on failure
        f"\nd={dimension} {reward} {solver} eta={eta}: energy distance {steered[0]:.4f} (unsteered {plain[0]:.3f}, "
        f"floor {floor[0]:.4f}), reward W1 {steered[1]:.3f} (unsteered {plain[1]:.3f}, floor {floor[1]:.3f})"
    )
    assert plain[0] > 30 * abs(floor[0])
    assert steered[0] < (0.06 if eta else 0.04) * plain[0]
    assert steered[1] < 0.15 * plain[1]
    assert report.network_rows == plan.rows * n
    if reward == "half_space":
        assert report.rewards is not None
        assert float((report.rewards == 0).double().mean()) > 0.85


def test_a_smaller_beta_tilts_more(mixture: GaussianMixture):
    own = posteriors.bank(mixture.sample(2000, 1).float(), calibration=CURVE)
    means = []
    for beta in (4.0, 1.0, 0.25):
        doob = Doob(lambda x: x[:, 0], beta, posterior=own)
        means.append(float(steering.run(compiled(), mixture.network(PATH), (200, 2), steer=doob)[:, 0].mean()))
    plain = float(steering.run(compiled(), mixture.network(PATH), (200, 2))[:, 0].mean())
    assert plain < means[0] < means[1] < means[2]


# Rare targets.


@cache
def rare_event(dimension: int, share: float) -> tuple[GaussianMixture, Tensor, float]:
    """A mixture, a direction, and the threshold which that share of it exceeds along it."""
    law = GaussianMixture.random(dimension, 4, seed=3 + dimension, spread=3.0)
    direction = torch.randn(dimension, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    direction /= direction.norm()
    projected = law.sample(400_000, 6) @ direction
    return (
        law,
        direction,
        float(projected.quantile(1 - share))
        if share > 1e-2
        else float(projected.topk(int(share * len(projected))).values[-1]),
    )


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_rare_event_is_met_and_its_law_is_right(eta: float):
    law, direction, threshold = rare_event(8, 1e-3)

    def reward(x: Tensor) -> Tensor:
        return x @ direction.to(x.dtype)

    n = 500
    doob = steering.Doob(reward, threshold=threshold, posterior=posteriors.bank(law.sample(4096, 1).float()))
    draw = partial(steering.run, compiled(eta=eta), law.network(PATH), (n, 8), steer=doob, tile=None, report=True)
    x, report = draw()
    assert report.rewards is not None
    assert float((report.rewards >= threshold).double().mean()) > 0.93
    assert report.setup_rows == 3 * 1024 * 20 + 256 * 16
    assert any("grown by 3 levels" in choice for choice in report.choices)
    assert not report.warnings or "effective bank samples" not in report.warnings[0]
    assert report.log_z is not None
    assert float(report.log_z) == pytest.approx(math.log(1e-3), abs=0.3)
    exact = law.sample(2_000_000, 8)
    exact = exact[exact @ direction >= threshold]
    plain = energy_distance(law.sample(n, 9), exact)
    assert energy_distance(x.to(torch.float64), exact) < 0.02 * plain
    above = (x.to(torch.float64) @ direction - threshold).clamp(min=0)
    assert wasserstein_distance(above.numpy(), (exact @ direction - threshold).numpy()) < 0.04
    again, second = draw()
    assert torch.equal(again, x)
    assert (second.setup_rows, second.setup_reward_rows) == (0, 0)


def test_an_indicator_gives_no_levels_and_is_warned_of():
    law, direction, threshold = rare_event(8, 1e-3)

    def indicator(x: Tensor) -> Tensor:
        return torch.where(x @ direction.to(x.dtype) >= threshold, 0.0, -torch.inf)

    doob = steering.Doob(indicator, posterior=posteriors.bank(law.sample(4096, 1).float()))
    x, report = steering.run(compiled(), law.network(PATH), (100, 8), steer=doob, tile=None, report=True)
    assert float((x.double() @ direction >= threshold).double().mean()) > 0.9
    assert report.setup_rows == 256 * 16
    assert any("leaves 4 effective bank samples" in warning for warning in report.warnings)


def test_forbidden_samples_are_no_levels():
    """-inf is legal beside a threshold too."""
    law, direction, threshold = rare_event(8, 1e-3)

    def reward(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 0, x @ direction.to(x.dtype), -torch.inf)

    doob = steering.Doob(reward, threshold=threshold, posterior=posteriors.bank(law.sample(4096, 1).float()))
    _, report = steering.run(compiled(), law.network(PATH), (100, 8), steer=doob, tile=None, report=True)
    assert report.rewards is not None
    assert float((report.rewards >= threshold).double().mean()) > 0.6
    nothing = steering.Doob(partial(constant, -math.inf), threshold=0.0, posterior=POSTERIORS["bank"]())
    plain = steering.run(compiled(steps=5), perceptron, (3, 2))
    assert torch.equal(steering.run(compiled(steps=5), perceptron, (3, 2), steer=nothing), plain)


def test_an_event_out_of_reach_is_approached_and_said_to_be_and_soon_given_up():
    law, direction, threshold = rare_event(8, 1e-3)

    def reward(x: Tensor) -> Tensor:
        return x @ direction.to(x.dtype)

    doob = steering.Doob(reward, threshold=100.0, posterior=posteriors.bank(law.sample(4096, 1).float()))
    _, report = steering.run(compiled(), law.network(PATH), (100, 8), steer=doob, tile=None, report=True)
    assert report.rewards is not None
    assert float(report.rewards.mean()) > threshold - 1
    assert report.setup_rows <= 256 * 16 + 2 * 1024 * 20
    assert any("no bank sample meets 'reward' >= 100: it steers toward >= " in each for each in report.warnings)
    assert report.log_z is not None
    assert float(report.log_z) == -math.inf


def test_a_strong_tilt_is_reached_by_levels_too():
    law, direction, _ = rare_event(8, 1e-3)
    a = 6 * direction
    doob = steering.Doob(lambda x: x @ a.to(x.dtype), posterior=posteriors.bank(law.sample(4096, 1).float()))
    x, report = steering.run(compiled(), law.network(PATH), (400, 8), steer=doob, tile=None, report=True)
    assert any("levels" in choice for choice in report.choices)
    exact = law.tilted(a).sample(4000, 2)
    assert energy_distance(x.to(torch.float64), exact) < 0.02 * energy_distance(law.sample(400, 9), exact)
    assert report.rewards is not None
    plain, reached, wanted = (float(each.mean()) for each in (law.sample(4000, 9) @ a, report.rewards, exact @ a))
    assert 0.95 < (reached - plain) / (wanted - plain) < 1.02


# Purity.


@pytest.mark.parametrize("budget", [None, 40])
@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize(("solver", "eta"), [("ddim", 1.0), ("heun", 0.0), ("dpmpp_2m", 0.0), ("dpmpp_2m", 1.0)])
def test_the_first_rows_of_a_larger_steered_run_are_the_smaller_run(
    solver: str, eta: float, posterior: str, budget: int | None
):
    plan = compiled(solver, eta, steps=10)

    def draw(n: int) -> tuple[Tensor, Report]:
        doob = Doob(skewed, 2.0, 16, POSTERIORS[posterior](), reward_budget=budget)
        return steering.run(plan, perceptron, (n, 2), seed=4, steer=doob, report=True)

    large, report = draw(37)
    assert not torch.equal(large, steering.run(plan, perceptron, (37, 2), seed=4))
    if "bank" in posterior:  # samples leave it at different stages
        assert 0 < report.methods["average"] < report.methods["bank"]
        assert report.methods["bank"] % 37
    for n in (1, 2, 16, 20):
        assert torch.equal(draw(n)[0], large[:n])


def test_steering_twice_gives_the_same_bits_and_asks_less_the_second_time():
    plan, doob = compiled(steps=5), Doob(skewed, particles=8)
    first, setup = steering.run(plan, perceptron, (6, 2), steer=doob, report=True)
    second, report = steering.run(plan, perceptron, (6, 2), steer=doob, report=True)
    assert torch.equal(first, second)
    assert (setup.setup_rows, setup.setup_reward_rows) == (BANK_SIZE * 20 + 256 * 16, BANK_SIZE)
    assert (report.setup_rows, report.setup_reward_rows) == (0, 0)
    assert (report.network_rows, report.reward_rows) == (setup.network_rows, setup.reward_rows)


def test_what_was_measured_on_one_network_is_not_used_for_another():
    plan, doob = compiled(steps=5), Doob(skewed, posterior=posteriors.gaussian())
    for network in (perceptron, lambda x, t: perceptron(x, t) + 5):
        _, report = steering.run(plan, network, (6, 2), steer=doob, report=True)
        assert report.setup_rows == 256 * 20 + 256 * 16


@pytest.mark.parametrize("posterior", [None, *POSTERIORS])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_conditional_sample_does_not_feel_its_neighbours_conditions(posterior: str | None, guidance: float):
    def network(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
        return perceptron(x, t) + shift

    plan, shifts = compiled("ddim", 1.0, steps=8), torch.linspace(-1, 1, 20)[:, None]

    def draw(n: int) -> tuple[Tensor, Report]:
        doob = Doob(skewed, 2.0, 8, None if posterior is None else POSTERIORS[posterior]())
        return steering.run(
            plan, network, (n, 2), condition={"shift": shifts[:n]}, guidance=guidance,
            null={"shift": torch.zeros(1, 1)}, steer=doob, report=True,
        )  # fmt: skip

    large, report = draw(20)
    assert report.network_rows == plan.rows * 20 * (1 if guidance == 1 else 2) * (1 + (posterior == "rollout") * 8)
    assert report.setup_rows == 0
    for n in (1, 7):
        assert torch.equal(draw(n)[0], large[:n])


# What it costs.


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize(("solver", "eta"), PLANS)
def test_steering_costs_no_network_row_but_those_of_roll_outs(solver: str, eta: float, posterior: str):
    plan = compiled(solver, eta, steps=7)
    seen = {"network": 0, "reward": 0}

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen["network"] += len(x)
        return perceptron(x, t)

    def reward(x: Tensor) -> Tensor:
        seen["reward"] += len(x)
        return skewed(x)

    doob = Doob(reward, 2.0, 8, POSTERIORS[posterior]())
    x, report = steering.run(plan, network, (9, 2), steer=doob, report=True, tile=None)
    own = 8 if posterior == "rollout" else 0
    assert report.network_rows == seen["network"] == plan.rows * 9 * (1 + own)
    assert report.setup_rows == 0
    assert report.setup_reward_rows == (300 if "bank" in posterior else 0)
    assert report.reward_rows + report.setup_reward_rows == seen["reward"]
    local = report.methods["average"] + report.methods["select"]
    assert report.methods["bank"] + local == plan.rows * 9
    assert (report.methods["bank"] > 0) == ("bank" in posterior)
    assert report.reward_rows == 8 * local + 9
    assert report.ess.shape == (plan.rows, 9)
    assert bool((report.ess >= 1 - 1e-5).all())
    assert report.rewards is not None
    assert torch.equal(report.rewards, skewed(x))


@pytest.mark.parametrize(
    ("posterior", "rows"),
    [
        (posteriors.bank(SAMPLES.float()), 256 * 16),
        (posteriors.neighbours(SAMPLES[:100].float()), 100 * 16),
        (posteriors.gaussian(), 256 * 20 + 256 * 16),
    ],
    ids=["bank", "neighbours", "gaussian"],
)
def test_calibrating_is_counted_as_setup(posterior: posteriors.Bank | posteriors.Local, rows: int):
    plan = compiled(steps=5)
    _, report = steering.run(plan, perceptron, (6, 2), steer=Doob(skewed, posterior=posterior), report=True)
    assert report.setup_rows == rows
    assert report.network_rows == plan.rows * 6


@pytest.mark.parametrize("budget", [1, 2, 3, 20, 45, 100, 10_000])
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_no_sample_spends_more_than_its_reward_budget(posterior: str, budget: int):
    plan = compiled("ddim", 1.0, steps=10)
    doob = Doob(skewed, 2.0, 16, POSTERIORS[posterior](), reward_budget=budget)
    for n in (1, 20):
        _, report = steering.run(plan, perceptron, (n, 2), steer=doob, report=True)
        assert report.reward_rows <= budget * n
    if posterior == "gaussian":
        assert report.reward_rows >= min(budget - 1, 16 * plan.rows) // 2 * 2 * n  # and hardly less


def test_a_budget_for_the_final_score_alone_steers_nothing():
    plan = compiled("ddim", 1.0, steps=10)
    doob = Doob(skewed, posterior=posteriors.gaussian(CURVE), reward_budget=1)
    x, report = steering.run(plan, perceptron, (5, 2), steer=doob, report=True)
    assert torch.equal(x, steering.run(plan, perceptron, (5, 2)))
    assert report.reward_rows == 5
    assert report.methods == {"none": 50}


# Rewards of minus infinity, and rewards that are wrong.


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_without_any_hit_nothing_is_corrected_and_the_report_says_so(posterior: str):
    plan = compiled(steps=10)
    doob = Doob(lambda x: half_space(x, torch.ones(2), 1e6), posterior=POSTERIORS[posterior]())
    x, report = steering.run(plan, perceptron, (7, 2), steer=doob, report=True)
    assert torch.equal(x, steering.run(plan, perceptron, (7, 2)))
    assert report.no_hit == plan.rows * 7
    assert any("no candidate had weight" in warning for warning in report.warnings)
    assert any("0 effective bank samples of 300" in warning for warning in report.warnings) == ("bank" in posterior)


def test_some_hits_are_enough(mixture: GaussianMixture):
    own = posteriors.bank(mixture.sample(4000, 1).float(), calibration=CURVE)
    threshold = float(mixture.sample(4000, 1)[:, 0].quantile(0.9))
    doob = Doob(lambda x: half_space(x, torch.tensor([1.0, 0.0]), threshold), posterior=own)
    x, report = steering.run(compiled(), mixture.network(PATH), (100, 2), steer=doob, report=True)
    assert bool(x.isfinite().all())
    assert float((x[:, 0] >= threshold).double().mean()) > 0.8
    assert report.no_hit < 0.05 * 20 * 100


def test_a_bank_with_few_useful_samples_is_warned_of():
    def rare(x: Tensor) -> Tensor:
        return 20 * x[:, 0]

    _, report = steering.run(
        compiled(), perceptron, (4, 2), steer=Doob(rare, posterior=POSTERIORS["bank"]()), report=True
    )
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith("reward 'rare' leaves ")
    assert "effective bank samples of 300" in report.warnings[0]


def positive(dtype: torch.dtype, x: Tensor) -> Tensor:
    return (x[:, 0] > 0).to(dtype)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_rewards_of_any_number_type_will_do(posterior: str):
    plan = compiled("ddim", 1.0, steps=5)
    first, *others = (
        steering.run(plan, perceptron, (9, 2), steer=Doob(partial(positive, dtype), posterior=POSTERIORS[posterior]()))
        for dtype in (torch.float32, torch.float64, torch.int64)
    )
    assert all(torch.equal(other, first) for other in others)


def too_large(x: Tensor) -> Tensor:
    return torch.full((len(x),), 1e39, dtype=torch.float64)


def nan(x: Tensor) -> Tensor:
    return x[:, 0] / 0 * 0


def infinite(x: Tensor) -> Tensor:
    return torch.where(x[:, 0] > -100, torch.inf, 0.0)


def raising(x: Tensor) -> Tensor:
    raise RuntimeError("out of paper")


def whole(x: Tensor) -> Tensor:
    return x


def scalar(x: Tensor) -> Tensor:
    return x.sum()


def array(x: Tensor) -> object:
    return x[:, 0].numpy()


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize(
    ("reward", "complaint"),
    [
        (nan, "reward 'nan': expected finite values or -inf, got NaN"),
        (infinite, "reward 'infinite': expected finite values or -inf, got \\+inf"),
        (too_large, "reward 'too_large': expected finite values or -inf, got \\+inf"),
        (raising, "reward 'raising' raised RuntimeError: out of paper"),
        (whole, "reward 'whole': expected shape \\[\\d+\\], got \\[\\d+, 2\\]"),
        (scalar, "reward 'scalar': expected shape \\[\\d+\\], got \\[\\]"),
        (array, "reward 'array': expected a tensor of shape \\[\\d+\\], got ndarray"),
    ],
)
def test_a_bad_reward_is_named(reward, complaint: str, posterior: str):
    with pytest.raises(SteeringError, match=complaint) as caught:
        steering.run(compiled(steps=3), perceptron, (5, 2), steer=Doob(reward, posterior=POSTERIORS[posterior]()))
    if reward is raising:
        assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_reward_that_fails_on_the_finished_sample_only_is_caught_too():
    plan = compiled(steps=3)
    calls = []

    def late(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x[:, 0] * (math.nan if len(calls) > 3 else 1)

    with pytest.raises(SteeringError, match="'late'"):
        steering.run(plan, perceptron, (5, 2), steer=Doob(late, posterior=posteriors.gaussian(CURVE)), tile=None)
    assert calls == [160, 160, 160, 5]


@pytest.mark.parametrize("beta", [1e-300, 1e-40, 1e-6, 1e6, 1e300])
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_no_temperature_breaks_a_run(posterior: str, beta: float):
    def reward(x: Tensor) -> Tensor:
        return torch.where(x[:, 1] > 0, x[:, 0], -torch.inf)

    plan = compiled("ddim", 1.0, steps=5)
    x = steering.run(plan, perceptron, (5, 2), steer=Doob(reward, beta, 8, POSTERIORS[posterior]()))
    assert bool(x.isfinite().all())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"beta": 0}, "beta: expected a finite number > 0, got 0"),
        ({"beta": -1.0}, "beta: .* got -1.0"),
        ({"beta": math.inf}, "beta: .* got inf"),
        ({"beta": math.nan}, "beta: .* got nan"),
        ({"beta": "1"}, "beta: .* got '1'"),
        ({"beta": True}, "beta: .* got True"),
        ({"particles": 0}, "particles: expected an even number >= 2, got 0"),
        ({"particles": 7}, "particles: .* got 7"),
        ({"particles": 8.0}, "particles: .* got 8.0"),
        ({"reward_budget": 0}, "reward_budget: expected at least 1 reward row per sample, got 0"),
        ({"reward_budget": 1.5}, "reward_budget: .* got 1.5"),
        ({"beta": None}, "beta: expected a finite number > 0, got None"),
        ({"threshold": "1"}, "threshold: expected a finite number, got '1'"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], complaint: str):
    with pytest.raises(SteeringError, match=complaint):
        Doob(skewed, **arguments)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: posteriors.bank(torch.zeros(5)), r"K >= 2, got shape \[5\]"),
        (lambda: posteriors.bank(torch.zeros(1, 5)), r"K >= 2, got shape \[1, 5\]"),
        (lambda: posteriors.bank(torch.full((3, 2), math.nan)), "finite samples"),
        (
            lambda: posteriors.bank(torch.zeros(3, 2), "nearest"),  # type: ignore[arg-type]
            "expected 'gaussian', 'mixture' or 'neighbours', got 'nearest'",
        ),
    ],
)
def test_impossible_banks_are_refused(make, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        make()


@pytest.mark.parametrize("posterior", ["bank", "mixture", "neighbours"])
def test_samples_of_another_shape_are_refused(posterior: str):
    doob = Doob(skewed, posterior=POSTERIORS[posterior]())
    with pytest.raises(SteeringError, match=r"posterior: expected samples of .*3"):
        steering.run(compiled(steps=2), lambda x, t: x, (4, 3), steer=doob)


def test_rewards_need_not_be_hashable():
    @dataclass
    class Slope:
        by: float

        def __call__(self, x: Tensor) -> Tensor:
            return self.by * x[:, 0]

    doob = Doob(Slope(2.0), posterior=POSTERIORS["bank"]())
    assert steering.run(compiled(steps=2), perceptron, (4, 2), steer=doob).shape == (4, 2)


def test_small_banks_of_images_get_neighbours_and_of_vectors_a_gaussian():
    for shape, kind in (((8, 1, 4, 4), posteriors.Neighbours), ((8, 16), posteriors.Gaussian)):
        local, _ = posteriors.automatic(posteriors.Cloud(torch.randn(shape)), PATH, CURVE)
        assert isinstance(local, kind)


@pytest.mark.parametrize(
    ("event", "size"),
    [((2,), BANK_SIZE), ((4, 64, 64), BANK_SIZE), ((3, 512, 512), 85), ((3, 2048, 2048), 64)],
    ids=str,
)
def test_a_bank_of_large_events_has_fewer_samples(event: tuple[int, ...], size: int):
    assert bank_size(event) == size
