"""The rivals: each against the mathematics that says what it samples, or how far it misses; costs; refusals."""

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor
from torch.distributions import Normal

import steering
from steering import Doob, baselines, paths, posteriors
from steering.baselines import (
    BASELINES,
    PRESETS,
    BankResampling,
    BestOf,
    ClassifierGuidance,
    Doit,
    Dps,
    LgdMc,
    Svdd,
    Tfg,
)
from steering.errors import SteeringError
from steering.methods.gradients import pullback, reward_gradient
from steering.plans.plan import Plan
from steering.problems import GaussianMixture
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem, Report
from steering.targets.target import Target

PATH = paths.vp_cosine()
A = torch.tensor([1.2, -0.9], dtype=torch.float64)


def compiled(solver: str = "dpmpp_2m", steps: int = 20, prediction: str = "x0", **other: Any) -> Plan:
    return steering.plan(solver, path=PATH, steps=steps, prediction=prediction, **other)


def gaussian(mean: list[float], variance: float) -> GaussianMixture:
    d = len(mean)
    return GaussianMixture(
        torch.ones(1, dtype=torch.float64),
        torch.tensor([mean], dtype=torch.float64),
        variance * torch.eye(d, dtype=torch.float64)[None],
    )


def perceptron(x: Tensor, t: Tensor) -> Tensor:
    """Matrix products, whose last bits depend on the number of rows a call gets."""
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 96, generator=g), torch.randn(96, 2, generator=g) / 20
    return torch.tanh(x @ first.to(x.dtype) + t[:, None].to(x.dtype)) @ second.to(x.dtype)


def slope(x: Tensor) -> Tensor:
    return (x * A.to(x.dtype)).sum(dim=1)


def skewed(x: Tensor) -> Tensor:
    return 3 * x[:, 0] - x[:, 1].abs() + torch.tanh(x[:, 1])


# Every rival: pure rows, honest costs, and the interface.

SAMPLES = GaussianMixture.random(2, 3, seed=0).sample(200, 9)
MADE: dict[str, Callable[..., Any]] = {
    "best_of": lambda reward: BestOf(reward, 3),
    "best_of smc": lambda reward: BestOf(reward, 3, steering.Smc(reward, population=6, keep=2)),
    "bank_resampling": lambda reward: BankResampling(reward, samples=SAMPLES),
    "svdd": lambda reward: Svdd(reward, candidates=4),
    "fk_steering": lambda reward: baselines.fk_steering(reward, particles=4),
    "doit": lambda reward: Doit(reward, probes=8, particles=2),
    "doit jacobian": lambda reward: Doit(reward, probes=8, jacobian=True),
    "classifier_guidance": lambda reward: ClassifierGuidance(reward),
    "classifier_guidance state": lambda reward: ClassifierGuidance(reward, at="state", scale=0.1),
    "dps": lambda reward: Dps(reward),
    "lgd_mc": lambda reward: LgdMc(reward, draws=4),
    "tfg": lambda reward: Tfg(reward),
    "tds": lambda reward: baselines.tds(reward, particles=4),
}
GRADIENTS = ("doit jacobian", "classifier_guidance", "classifier_guidance state", "dps", "lgd_mc", "tfg", "tds")


def test_every_rival_is_listed_and_tried_here():
    assert set(BASELINES) == {name.split()[0] for name in MADE}


@pytest.mark.parametrize("name", MADE)
def test_rows_are_pure_and_counted(name: str):
    plan, seen = compiled("ddim", steps=6, eta=1.0), {"network": 0, "reward": 0}

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen["network"] += len(x)
        return perceptron(x, t)

    def reward(x: Tensor) -> Tensor:
        seen["reward"] += len(x)
        return skewed(x)

    def draw(n: int, tile: int | None) -> tuple[Tensor, Report]:
        return steering.run(plan, network, (n, 2), seed=4, steer=MADE[name](reward), report=True, tile=tile)

    large, _ = draw(37, 16)
    for n in (1, 4, 20):
        assert torch.equal(draw(n, 16)[0], large[:n])
    assert not torch.equal(large, steering.run(plan, network, (37, 2), seed=4))
    seen.update(network=0, reward=0)
    x, report = draw(12, None)
    assert report.network_rows + report.gradient_rows == seen["network"]
    assert report.reward_rows + report.setup_reward_rows + report.reward_gradient_rows == seen["reward"]
    assert (report.gradient_rows + report.reward_gradient_rows > 0) == (name in GRADIENTS)
    assert getattr(MADE[name](reward), "needs_gradients", False) == (name in GRADIENTS)
    assert report.rewards is not None
    torch.testing.assert_close(report.rewards, skewed(x).to(report.rewards.dtype))


@pytest.mark.parametrize("name", ["doit", "doit jacobian", *GRADIENTS[1:-1]])
def test_a_reward_that_says_nothing_leaves_every_bit_alone(name: str):
    def flat(x: Tensor) -> Tensor:
        return 0 * x[:, 0] + 1.5

    plan = compiled("ddim", steps=6, eta=1.0)
    steer = MADE[name](flat)
    if name == "doit":
        steer = Doit(flat, probes=8)
    assert torch.equal(steering.run(plan, perceptron, (20, 2), steer=steer), steering.run(plan, perceptron, (20, 2)))


# Best of n: the largest of n draws.


def test_best_of_n_takes_the_best_of_its_own_chains():
    plan, n = compiled("ddim", eta=1.0, steps=4), 3
    chains = steering.run(plan, perceptron, (30, 2), seed=5)
    best = chains.reshape(10, n, 2)[torch.arange(10), skewed(chains).reshape(10, n).argmax(dim=1)]
    assert torch.equal(steering.run(plan, perceptron, (10, 2), seed=5, steer=BestOf(skewed, n)), best)


@pytest.mark.parametrize("with_inner", [False, True])
def test_the_best_reward_has_the_law_of_the_largest_of_n(with_inner: bool):
    """F(r)^n is uniform; with DPS inside, which is exact on a Gaussian, F is that of the tilted law."""
    law, n = gaussian([0.3, -0.2], 0.6), 4
    inner = Dps(slope) if with_inner else None
    tilted = law.tilted(A) if with_inner else law
    own = Normal(float(tilted.means[0] @ A), math.sqrt(0.6 * float(A @ A)))
    x, report = steering.run(
        compiled(steps=25), law.network(PATH), (300, 2), seed=1, steer=BestOf(slope, n, inner), report=True, tile=None
    )
    assert kstest(own.cdf(slope(x)) ** n, "uniform").pvalue > 0.001
    assert kstest(own.cdf(slope(x)) ** (n // 2), "uniform").pvalue < 1e-6
    assert report.network_rows == 25 * n * 300


# Resampling a bank.


def test_a_bank_is_resampled_by_its_weights():
    samples, beta = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-2.0, 1.0]]), 0.7
    steer = BankResampling(slope, beta, samples)
    x, report = steering.run(compiled(), perceptron, (4000, 2), seed=1, steer=steer, report=True)
    weights = torch.softmax(slope(samples).double() / beta, 0)
    counts = (x[:, None] == samples).all(dim=2).sum(dim=0)
    assert int(counts.sum()) == 4000
    assert chisquare(counts.numpy(), (4000 * weights / weights.sum()).numpy()).pvalue > 0.001
    assert report.network_rows == report.reward_rows == 0
    assert report.log_z is not None
    assert float(report.log_z) == pytest.approx(float(torch.logsumexp(slope(samples) / beta, 0)) - math.log(4))
    torch.testing.assert_close(report.ess, torch.full((1, 4000), float(1 / weights.square().sum())))
    assert report.warnings == ["reward 'slope' leaves 1 effective samples of 4, fewer than are drawn"]


def test_a_bank_is_drawn_once_and_belongs_to_one_law():
    steer, plan = BankResampling(slope), compiled(steps=2)
    for rows in (4096 * 20, 0):
        _, report = steering.run(plan, perceptron, (3, 2), steer=steer, report=True, tile=None)
        assert (report.setup_rows, report.setup_reward_rows) == (rows, rows // 20)
    with pytest.raises(SteeringError, match="expected no conditions"):
        steering.run(plan, lambda x, t, c: perceptron(x, t) + c, (3, 2), condition={"c": torch.ones(1, 1)}, steer=steer)
    with pytest.raises(SteeringError, match="expected no x_init"):
        steering.run(plan, perceptron, (3, 2), x_init=torch.ones(3, 2), steer=steer)


# SVDD.


def test_svdd_comes_to_the_tilted_law_as_candidates_and_steps_grow():
    """On a Gaussian r(D) and log h differ by a constant, and D(x_t) is a martingale of ancestral steps, so choosing
    among many candidates gives the tilt of the plan's own law; that comes to the model's with more steps."""
    law, network = gaussian([0.3, -0.2], 0.6), gaussian([0.3, -0.2], 0.6).network(PATH)
    exact, plain, n = float(law.tilted(A).means[0] @ A), float(law.means[0] @ A), 800

    def gain(candidates: int, steps: int) -> float:
        """Of the exact tilt's increase of the mean reward, the share that is reached."""
        plan, steer = compiled("ddim", steps, eta=1.0), Svdd(slope, candidates=candidates)
        x, report = steering.run(plan, network, (n, 2), seed=2, steer=steer, report=True, tile=None)
        assert report.network_rows == n * (1 + candidates * (steps - 1))
        assert report.reward_rows == n * candidates * steps
        assert report.ess.shape == (steps, n)
        return (float(slope(x.double()).mean()) - plain) / (exact - plain)

    own = steering.run(compiled("ddim", 20, eta=1.0), network, (20_000, 2), seed=3, tile=None).double()
    limit = float(own.var(dim=0).mean() * (A @ A)) / (exact - plain)
    few, some, many, finer = gain(2, 20), gain(8, 20), gain(64, 20), gain(48, 50)
    print(f"\nlimit {limit:.3f}; M=2 {few:.3f}, M=8 {some:.3f}, M=64 {many:.3f}, in 50 steps {finer:.3f}")
    assert few < 0.6 * limit
    assert few < some < many
    assert many == pytest.approx(limit, rel=0.06)
    assert finer == pytest.approx(1, abs=0.25)
    assert finer > many + 0.1


def test_a_plan_without_noise_leaves_svdd_nothing_to_choose():
    with pytest.raises(SteeringError, match="draws no noise to choose among: expected eta above 0"):
        steering.run(compiled(), perceptron, (3, 2), steer=Svdd(slope))


# DOIT: it climbs, far past the tilted law.


@pytest.mark.parametrize("jacobian", [False, True])
def test_the_reference_estimator_over_steers(mixture: GaussianMixture, jacobian: bool):
    a = torch.tensor([1.5, -1.3], dtype=torch.float64)
    reward = lambda x: (x * a.to(x.dtype)).sum(dim=1)  # noqa: E731
    plan, network = compiled("ddim", 25, eta=1.0), mixture.network(PATH)
    exact, plain = (float(law.means.T @ law.weights @ a) for law in (mixture.tilted(a), mixture))
    reached = []
    for gamma in (0.0, 1.0):
        steer = Doit(reward, beta=1.0, gamma=gamma, t_star=25, probes=32, jacobian=jacobian)
        reached.append(
            float(reward(steering.run(plan, network, (400, 2), seed=1, steer=steer, tile=None).double()).mean())
        )
    own = Doob(reward, posterior=posteriors.bank(mixture.sample(4096, 1).float()))
    doob = float(reward(steering.run(plan, network, (400, 2), seed=1, steer=own, tile=None).double()).mean())
    print(f"\nE[r]: unsteered {reached[0]:.2f}, exact tilt {exact:.2f}, Doob {doob:.2f}, DOIT {reached[1]:.2f}")
    assert reached[0] == pytest.approx(plain, abs=0.25)
    assert doob == pytest.approx(exact, abs=0.1 * (exact - plain))
    assert reached[1] > exact + 0.3 * (exact - plain)


def test_its_temperature_is_relative_to_the_spread_of_rewards():
    plan = compiled("ddim", steps=8, eta=0.5)
    rewards: list[Callable[[Tensor], Tensor]] = [slope, lambda x: 1024 * slope(x) + 8]
    one, other = (steering.run(plan, perceptron, (10, 2), steer=Doit(reward, tau=0.5)) for reward in rewards)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    assert not torch.allclose(one, steering.run(plan, perceptron, (10, 2)), atol=0.1)


def test_its_window_leaves_the_first_and_the_late_stages_alone():
    plan = compiled("ddim", steps=8, eta=0.5)
    for t_star, rows in ((0, 1), (3, 1 + 3 * 16), (99, 1 + 7 * 16)):
        _, report = steering.run(plan, perceptron, (5, 2), steer=Doit(slope, t_star=t_star), report=True)
        assert report.reward_rows == 5 * rows


@pytest.mark.parametrize("name", PRESETS)
def test_its_published_settings_run(name: str, mixture: GaussianMixture):
    preset, n = PRESETS[name], 6
    plan, network = preset.plan("score"), mixture.network(preset.plan("score").path, "score")
    assert (plan.steps, plan.eta, plan.nodes[0].t, plan.nodes[-1].t) == (15, preset.eta, 1.0, 1e-3)
    x, report = steering.run(plan, network, (n, 2), seed=1, steer=preset.steer(slope), report=True)
    assert bool(x.isfinite().all())
    assert report.network_rows == 15 * preset.particles * n
    assert report.gradient_rows == preset.t_star * preset.particles * n
    assert report.reward_rows == (32 * preset.t_star + 1) * preset.particles * n
    forward = steering.run(plan, network, (n, 2), seed=1, steer=preset.steer(slope, jacobian=False))
    plain = steering.run(plan, network, (n, 2), seed=1)
    assert float(slope(forward).mean()) > float(slope(plain).mean())
    assert float(slope(x).mean()) > float(slope(plain).mean())


@pytest.mark.parametrize(("solver", "eta"), [("ddim", 0.0), ("dpmpp_2m", 1.0)])
def test_it_is_defined_on_stochastic_ddim(solver: str, eta: float):
    with pytest.raises(SteeringError, match="doit: expected solver 'ddim' with eta above 0"):
        steering.run(compiled(solver, eta=eta), perceptron, (3, 2), steer=Doit(slope))


# Gradient guidance: on a Gaussian its closed forms are known.


def steered_and_exact(
    law: GaussianMixture, tilted: GaussianMixture, steer: Any, prediction: str = "x0"
) -> tuple[Tensor, Tensor]:
    """Steered samples, and those the tilted law's own network leads to from the same states."""
    x_init = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plan = compiled(steps=12, prediction=prediction)
    found, exact = (
        steering.run(
            plan, each.network(PATH, prediction), (40, 2), steer=method, x_init=x_init, dtype=torch.float64, tile=None
        )
        for each, method in ((law, steer), (tilted, None))
    )
    return found, exact


@pytest.mark.parametrize("prediction", ["x0", "eps", "v", "score"])
@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_dps_and_lgd_are_exact_for_linear_rewards_on_a_gaussian(beta: float, prediction: str):
    """D = m + V (..) x with a constant J: (sigma^2 / alpha) J^T a = V(t) a, as Doob's transform has it."""
    law = gaussian([0.3, -0.2], 0.6)
    for steer in (Dps(slope, beta), LgdMc(slope, beta, draws=2), LgdMc(slope, beta, spread=0)):
        found, exact = steered_and_exact(law, law.tilted(A, beta), steer, prediction)
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-8)


def test_classifier_guidance_at_d_is_exact_for_linear_rewards_on_unit_variance():
    law = gaussian([0.3, -0.2], 1.0)
    found, exact = steered_and_exact(law, law.tilted(A, 0.7), ClassifierGuidance(slope, 0.7))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-8)
    found, _ = steered_and_exact(law, law, ClassifierGuidance(slope, 0.7, scale=2.0))
    torch.testing.assert_close(found, steered_and_exact(law, law.tilted(A, 0.35), None)[1], rtol=0, atol=1e-8)


@pytest.mark.parametrize(("rho", "mu"), [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7)])
def test_tfg_is_exact_for_linear_rewards_on_unit_variance(rho: float, mu: float):
    law = gaussian([0.3, -0.2], 1.0)
    found, exact = steered_and_exact(law, law.tilted(A, 0.7), Tfg(slope, 0.7, rho=rho, mu=mu, iterations=3))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-8)


def test_tfg_by_variance_alone_is_lgd():
    law = GaussianMixture.random(2, 3, seed=0)
    one, other = (
        steered_and_exact(law, law, steer)[0]
        for steer in (Tfg(skewed, rho=1.0, mu=0.0, draws=4, spread=1.0), LgdMc(skewed, draws=4))
    )
    assert torch.equal(one, other)


def test_classifier_guidance_at_the_state_is_exact_for_a_classifier_of_noisy_states():
    """One step from t: the classifier's log p(y | x_t) is log h(x_t) itself, linear with slope alpha a on unit data."""
    plan, law = compiled("ddim", 1), gaussian([0.0, 0.0], 1.0)
    alpha = plan.nodes[0].alpha
    x_init = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    steer = ClassifierGuidance(lambda x: alpha * slope(x), at="state")
    found, exact = (
        steering.run(plan, each.network(PATH), (40, 2), steer=method, x_init=x_init, dtype=torch.float64, tile=None)
        for each, method in ((law, steer), (law.tilted(A), None))
    )
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)


def test_lgd_smooths_the_reward_and_dps_does_not():
    """r = -|x - c|^2 / 2 on N(0, I): c_t^2 is the posterior's own variance, so many draws give Doob's transform."""
    centre = torch.tensor([1.5, 1.0], dtype=torch.float64)

    def near(x: Tensor) -> Tensor:
        return -0.5 * (x - centre.to(x.dtype)).square().sum(dim=1)

    law, tilted = gaussian([0.0, 0.0], 1.0), gaussian((centre / 2).tolist(), 0.5)
    miss = {}
    for name, steer in (("many", LgdMc(near, draws=2048)), ("few", LgdMc(near, draws=16)), ("dps", Dps(near))):
        found, exact = steered_and_exact(law, tilted, steer)
        miss[name] = float((found - exact).norm(dim=1).mean())
    print(f"\n{miss}")
    assert miss["many"] < 0.25 * miss["few"]
    assert miss["many"] < 0.1 * miss["dps"]


def network_with_shift(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
    return torch.sin(perceptron(x, t) * (1 + shift)) + shift


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("preconditioning", ["none", "edm"])
def test_the_pullback_is_that_of_the_denoised_estimate(guidance: float, preconditioning: str):
    """Against autograd through the whole of D, scales, preconditioning and classifier-free guidance included."""
    path = paths.edm() if preconditioning == "edm" else PATH
    plan = steering.plan(
        "euler", path=path, steps=4, prediction="x0" if preconditioning == "edm" else "eps",
        preconditioning=preconditioning,
    )  # fmt: skip
    g = torch.Generator().manual_seed(0)
    x, v = (torch.randn(7, 2, generator=g, dtype=torch.float64) for _ in range(2))
    shift = torch.randn(7, 1, generator=g, dtype=torch.float64)
    problem = Problem(
        plan=plan,
        event=(2,),
        dtype=torch.float64,
        condition={"shift": shift},
        guidance=guidance,
        null={"shift": torch.zeros(1, 1, dtype=torch.float64)},
    )
    rule = plan.stages[2].denoise
    found = steering.solve(pullback(problem, rule, x, v), network_with_shift)
    x = x.requires_grad_()
    t = torch.as_tensor(rule.t, dtype=torch.float64).expand(7)
    with_condition, without = (network_with_shift(rule.scaled(x), t, s) for s in (shift, torch.zeros_like(shift)))
    denoised = rule(x, without + guidance * (with_condition - without))
    (expected,) = torch.autograd.grad(denoised, x, v)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_condition_may_be_called_anything():
    x, v = torch.randn(3, 2), torch.randn(3, 2)
    for name in ("cotangent", "v", "network", "output", "function"):
        rows = Rows.pullback(x, 0.5, v, {name: torch.full((3, 1), 2.0)})
        found = steering.solve(yielded(rows), lambda x, t, **c: x * next(iter(c.values())))
        assert torch.equal(found, 2 * v)


def yielded(rows: Rows) -> Any:
    return (yield rows)


def test_rewards_of_minus_infinity_have_no_gradient():
    def inside(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 0, x[:, 0].clamp(min=1e-9).log() + x[:, 1], -torch.inf)

    x = torch.tensor([[0.5, 1.0], [-1.0, 2.0]], dtype=torch.float64)
    request = reward_gradient(Target(inside), x)
    assert next(request).kind == "reward_gradient"
    reply = torch.tensor([[math.log(0.5) + 1, 2.0, 1.0], [-math.inf, math.nan, 0.0]], dtype=torch.float64)
    with pytest.raises(StopIteration) as stop:
        request.send(reply)
    rewards, gradient = stop.value.value
    assert torch.equal(rewards, reply[:, 0])
    assert torch.equal(gradient, torch.tensor([[2.0, 1.0], [0.0, 0.0]], dtype=torch.float64))
    plan, steer = compiled("ddim", 4), Dps(inside)
    found = steering.run(plan, perceptron, (9, 2), steer=steer)
    assert bool(found.isfinite().all())


def detached(x: Tensor, t: Tensor) -> Tensor:
    return torch.from_numpy(perceptron(x, t).detach().numpy())


@pytest.mark.parametrize("name", ["dps", "lgd_mc", "tfg", "tds", "doit jacobian"])
def test_a_network_that_cannot_be_differentiated_is_refused(name: str):
    with pytest.raises(SteeringError, match="network: expected a differentiable function of x for a gradient method"):
        steering.run(compiled("ddim", 4, eta=1.0), detached, (3, 2), steer=MADE[name](slope))
    with torch.no_grad():  # whatever the caller's own mode
        steering.run(compiled("ddim", 4, eta=1.0), perceptron, (3, 2), steer=MADE[name](slope))


@pytest.mark.parametrize(
    ("reward", "complaint"),
    [
        (lambda x: x[:, 0].detach() * 2, "reward '<lambda>': expected a differentiable function of x"),
        (lambda x: (x[:, 0] > 0).float(), "expected a differentiable function of x for a gradient method"),
        (lambda x: x, r"expected shape \[3\], got \[3, 2\]"),
        (lambda x: x[:, 0] * math.nan, "expected finite values or -inf, got NaN"),
        (lambda x: (x[:, 0] * 0).sqrt(), "expected finite gradients"),
        (lambda x: 1 // 0, "reward '<lambda>' raised ZeroDivisionError"),
    ],
)
def test_a_reward_that_cannot_be_differentiated_is_refused(reward: Callable[[Tensor], Tensor], complaint: str):
    for steer in (Dps(reward), ClassifierGuidance(reward)):
        with pytest.raises(SteeringError, match=complaint):
            steering.run(compiled("ddim", 4), perceptron, (3, 2), steer=steer, tile=None)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: BestOf(slope, 0), "n: expected an integer >= 1, got 0"),
        (lambda: BestOf(slope, 2, Doob(skewed)), "toward the same reward"),
        (lambda: Svdd(slope, candidates=0), "candidates: expected an integer >= 1, got 0"),
        (lambda: LgdMc(slope, draws=3), "draws: expected an even integer >= 2, got 3"),
        (lambda: LgdMc(slope, spread=-1), "spread: expected a finite number >= 0, got -1"),
        (lambda: ClassifierGuidance(slope, scale=math.inf), "scale: expected a finite number >= 0, got inf"),
        (
            lambda: ClassifierGuidance(slope, at=cast(Any, "x")),
            "unknown place of the gradient 'x': expected one of denoised, state",
        ),
        (lambda: Doit(slope, tau=0), "tau: expected a finite number > 0, got 0"),
        (lambda: Doit(slope, probes=5), "probes: expected an even integer >= 2, got 5"),
        (lambda: Doit(slope, particles=0), "particles: expected an integer >= 1, got 0"),
        (lambda: Tfg(slope, rho=-1), "rho: expected a finite number >= 0, got -1"),
        (lambda: Tfg(slope, iterations=0), "iterations: expected an integer >= 1, got 0"),
        (lambda: Dps(slope, beta=-1), "beta: expected a finite number > 0, got -1"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], Any], complaint: str):
    with pytest.raises(SteeringError, match=complaint):
        make()
