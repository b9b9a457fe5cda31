"""Sequential Monte Carlo: unbiased, exact in the limit, pure, and clear about what it cannot do."""

import importlib
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import steering
from steering import Doob, Smc, paths, posteriors
from steering.baselines import Dps, fk_steering
from steering.errors import SteeringError
from steering.numerics.noise import Noise
from steering.numerics.resampling import systematic
from steering.plans.plan import Plan, Stage
from steering.posteriors.calibration import Calibration, Uncalibrated
from steering.problems import GaussianMixture, Projected, energy_distance
from steering.sampling.rows import Rows
from steering.sampling.sampler import Guided, Problem, Report, Tilt, Tilting
from steering.targets.rewards import half_space

PATH = paths.vp_cosine()
CURVE = Calibration((0.001, 0.5, 0.99), (0.0001, 0.1, 0.4))
SAMPLES = GaussianMixture.random(2, 3, seed=0).sample(300, 9)
A = torch.tensor([0.9, -0.6], dtype=torch.float64)


def compiled(solver: str = "sde_dpmpp_2m", steps: int = 6, **other: Any) -> Plan:
    return steering.plan(solver, **{"path": PATH, "steps": steps, "prediction": "x0", **other})


def perceptron(x: Tensor, t: Tensor) -> Tensor:
    """Matrix products, whose last bits depend on the number of rows a call gets."""
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 96, generator=g), torch.randn(96, 2, generator=g) / 20
    return torch.tanh(x @ first.to(x.dtype) + t[:, None]) @ second.to(x.dtype)


def slope(x: Tensor) -> Tensor:
    return (x * A.to(x.dtype)).sum(dim=1)


def skewed(x: Tensor) -> Tensor:
    """A reward that is neither linear nor smooth."""
    return 3 * x[:, 0] - x[:, 1].abs() + (x[:, 1] > 0.5)


# Systematic resampling.


def test_members_are_drawn_as_often_as_their_weights_say():
    g = torch.Generator().manual_seed(0)
    weights = torch.softmax(torch.randn(5, 8, generator=g, dtype=torch.float64), dim=1)
    for count in (8, 3, 40):
        total = torch.zeros(5, 8, dtype=torch.float64)
        for step in range(400):
            drawn = systematic(weights, torch.full((5, 1), (step + 0.5) / 400, dtype=torch.float64), count)
            assert drawn.shape == (5, count)
            copies = torch.stack([(drawn == k).sum(dim=1) for k in range(8)], dim=1)
            assert bool(((copies - count * weights).abs() < 1).all())
            total += copies
        torch.testing.assert_close(total / 400, count * weights, rtol=0, atol=0.01)


def test_equal_weights_leave_everyone_and_no_weight_nobody():
    uniform = torch.tensor([[1e-9], [0.5], [1 - 1e-9]], dtype=torch.float64)
    assert torch.equal(systematic(torch.full((3, 48), 1 / 48), uniform, 48), torch.arange(48).expand(3, 48))
    assert systematic(torch.tensor([[0.0, 0.0, 1.0, 0.0]]), uniform[1:2], 4).tolist() == [[2, 2, 2, 2]]


# Inner methods made for the tests.


@dataclass
class Following(Tilt):
    """A tilt that carries each chain's first state along, moves nothing, and says nothing of some chains."""

    silent: int = 0
    first: Tensor = field(default_factory=lambda: torch.empty(0))
    seen: list[Tensor] = field(default_factory=list)

    def steer(self, stage: Stage, x: Tensor, denoised: Tensor, noise: Noise) -> Generator[Rows, Tensor, Guided]:
        self.first = x if stage.index == 0 else self.first
        scores = yield Rows.reward(denoised)
        log_h = scores / 0.3
        if self.silent and stage.index % self.silent:
            log_h[::2], log_h[1::2] = math.nan, -math.inf
        return Guided(denoised, log_h=log_h)

    def continued(self, ancestors: Tensor) -> None:
        self.first = self.first[ancestors]
        self.seen.append(ancestors)

    def finish(self, x: Tensor, report: Report) -> Generator[Rows, Tensor, None]:
        report.rewards = yield Rows.reward(x)


@dataclass
class Follow(Tilting):
    tilt: Following

    def prepare(self, problem: Problem) -> Generator[Rows, Tensor, Following]:
        yield from ()
        return self.tilt


# Unbiased: the mean over populations of exp(log Z) is E_p[w], p the plan's own law, whatever the size of populations.

V = 0.6
GAUSSIAN = GaussianMixture(
    torch.ones(1, dtype=torch.float64),
    torch.tensor([[0.3, -0.2]], dtype=torch.float64),
    V * torch.eye(2, dtype=torch.float64)[None],
)
WEAK = posteriors.Gaussian(Uncalibrated(0.4))  # not the posterior: weights have to make up for it


@cache
def shared_bank() -> posteriors.Bank:
    return posteriors.bank(GAUSSIAN.sample(500, 2), WEAK)


PLANS: dict[str, Plan] = {
    "sde_dpmpp_2m": compiled(),
    "sde_dpmpp_1": compiled("sde_dpmpp_1"),
    "sde_dpmpp_1 from middle noise": compiled("sde_dpmpp_1", path=paths.vp_cosine(t_max=0.5)),
    "ddim": compiled("ddim", eta=0.6),
    "dpmpp_2m": compiled("dpmpp_2m", eta=1.5),
    "euler_ancestral": compiled("euler_ancestral"),
}
METHODS: dict[str, Callable[[], dict[str, Any]]] = {
    "difference": dict,
    "max": lambda: {"potential": "max", "every": 3},
    "sum": lambda: {"potential": "sum", "every": 3},
    "tempered": lambda: {"tempering": 0.7},
    "doob": lambda: {"inner": Doob(slope, particles=8, posterior=WEAK)},
    "doob on a bank": lambda: {"inner": Doob(slope, particles=8, posterior=shared_bank())},
    "doob, tempered": lambda: {"inner": Doob(slope, particles=8, posterior=shared_bank()), "tempering": 0.8},
    "doob, difference": lambda: {"inner": Doob(slope, particles=8, posterior=WEAK), "potential": "difference"},
    "doob, too strong": lambda: {"inner": Doob(slope, 0.5, particles=8, posterior=WEAK)},
    "dps": lambda: {"inner": Dps(slope)},
    "mostly silent": lambda: {"inner": Follow(Following(3))},
}


@cache
def own_law(name: str) -> tuple[Tensor, Tensor]:
    """Mean [2] and variance (of each coordinate) of a plan on the Gaussian, which few steps miss by far."""
    plan = PLANS[name]
    x = steering.run(plan, GAUSSIAN.network(plan.path), (60_000, 2), seed=9, dtype=torch.float64, tile=None)
    return x.mean(dim=0), x.var(dim=0).mean()


@pytest.mark.parametrize(
    ("name", "method"),
    [("sde_dpmpp_2m", method) for method in METHODS]
    + [(name, method) for name in PLANS for method in ("difference", "doob on a bank")][2:],
)
def test_normalising_constants_are_unbiased_and_samples_follow_the_tilt_of_the_plans_own_law(name: str, method: str):
    populations, size = 128, 32
    plan, (mean, variance) = PLANS[name], own_law(name)
    log_z = float(mean @ A + variance * (A @ A) / 2)
    smc = Smc(slope, population=size, **METHODS[method]())
    x, report = steering.run(
        plan, GAUSSIAN.network(plan.path), (populations * size, 2), seed=3, steer=smc,
        report=True, dtype=torch.float64, tile=None,
    )  # fmt: skip
    assert report.log_z is not None
    assert report.log_z.shape == (populations,)
    ratios = torch.exp(report.log_z - log_z)
    error = float(ratios.std()) / math.sqrt(populations)
    print(f"\n{name} {method}: Z / exact {float(ratios.mean()):.3f} +- {error:.3f}")  # shown on failure
    assert error < 0.06
    assert float(ratios.mean()) == pytest.approx(1, abs=4 * error + 0.02)
    # weighting populations by their Z takes the bias of finite ones away
    weights = torch.exp(report.log_z - report.log_z.logsumexp(0))
    means = x.reshape(populations, size, 2).mean(dim=1)
    estimate = weights @ means
    spread = ((weights[:, None] * (means - estimate)) ** 2).sum(dim=0).sqrt()
    assert bool(((estimate - (mean + variance * A)).abs() < 4.5 * spread + 0.02).all())


# Exact in the limit.


@pytest.mark.parametrize("with_doob", [False, True])
def test_the_law_comes_to_the_exact_tilt_as_populations_grow(with_doob: bool):
    """Doob here has no bank and a wrong variance: alone it is far off."""
    law = GaussianMixture.random(2, 4, seed=11)
    a = torch.tensor([1.5, -1.3], dtype=torch.float64)
    exact, network, plan, n = law.tilted(a).sample(2000, 5), law.network(PATH), compiled(steps=30), 2304

    def reward(x: Tensor) -> Tensor:
        return (x * a.to(x.dtype)).sum(dim=1)

    doob = Doob(reward, particles=8, posterior=posteriors.Gaussian(Uncalibrated(1.0)))
    distances, constants = [], []
    log_z = float(torch.logsumexp(law.weights.log() + law.means @ a + 0.5 * (law.covariances @ a) @ a, dim=0))
    for size in (2, 12, 192):
        smc = Smc(reward, inner=doob if with_doob else None, population=size)
        x, report = steering.run(plan, network, (n, 2), seed=1, steer=smc, tile=None, report=True)
        distances.append(energy_distance(x, exact))
        assert report.log_z is not None
        constants.append(float(report.log_z.mean()) - log_z)
    plain = energy_distance(steering.run(plan, network, (n, 2), seed=1, tile=None), exact)
    alone = energy_distance(steering.run(plan, network, (n, 2), seed=1, steer=doob, tile=None), exact)
    print(f"\nunsteered {plain:.3f}, Doob alone {alone:.3f}, Smc {distances}, log Z - exact {constants}")
    assert distances[0] > 2 * distances[1] > 4 * distances[2]
    assert distances[2] < 0.008 * plain
    assert distances[2] < 0.015 * alone
    assert abs(constants[2]) < 0.15 < abs(constants[0])


def test_a_flat_reward_leaves_every_bit_alone():
    plan = compiled()
    plain = steering.run(plan, perceptron, (40, 2), seed=3)
    for inner in (None, Doob(flat, particles=8, posterior=posteriors.bank(SAMPLES.float(), calibration=CURVE))):
        x, report = steering.run(plan, perceptron, (40, 2), seed=3, steer=Smc(flat, inner=inner), report=True)
        assert torch.equal(x, plain)
        assert report.log_z is not None
        assert report.log_z.tolist() == pytest.approx([0.7])


def flat(x: Tensor) -> Tensor:
    return torch.full((len(x),), 0.7)


@pytest.mark.parametrize("with_doob", [False, True])
def test_an_event_is_met_by_every_sample(mixture: GaussianMixture, with_doob: bool):
    direction = torch.tensor([1.0, 0.5])
    threshold = float((mixture.sample(20_000, 6) @ direction.double()).quantile(0.95))
    rewards: list[tuple[Callable[[Tensor], Tensor], float | None]] = [
        (lambda x: x @ direction, threshold),
        (lambda x: half_space(x, direction, threshold), None),
    ]
    exact = Projected.half_space(mixture, direction.double(), threshold).sample(1000, 3)
    for reward, level in rewards:
        own = posteriors.bank(mixture.sample(2000, 1).float(), calibration=CURVE)
        inner = Doob(reward, 1.0, 8, own, threshold=level) if with_doob else None
        smc = Smc(reward, threshold=level, inner=inner, population=512)
        x, report = steering.run(compiled(steps=20), mixture.network(PATH), (512, 2), steer=smc, tile=None, report=True)
        assert bool((x @ direction >= threshold).all())
        assert report.log_z is not None
        assert float(report.log_z) == pytest.approx(math.log(0.05), abs=0.5)
        assert energy_distance(x, exact) < 0.1 * energy_distance(mixture.sample(1000, 8), exact)


def test_without_any_hit_the_report_says_so():
    def never(x: Tensor) -> Tensor:
        return torch.full((len(x),), -math.inf)

    smc = Smc(never, population=8)
    x, report = steering.run(compiled(), perceptron, (16, 2), steer=smc, report=True)
    assert torch.equal(x, steering.run(compiled(), perceptron, (16, 2)))
    assert report.no_hit == 16
    assert report.log_z is not None
    assert report.log_z.tolist() == [-math.inf] * 2
    assert report.warnings == ["2 of 2 populations: no chain had weight, reward 'never'"]


def test_a_population_that_collapses_is_warned_of():
    smc = Smc(lambda x: 200 * x[:, 0], population=8)
    _, report = steering.run(compiled(), perceptron, (16, 2), steer=smc, report=True)
    assert report.warnings == [
        "2 of 2 populations of 8 chains fell to fewer than 2 effective chains: "
        "their samples are alike, and rare ones are missing"
    ]


# Purity, and whose sample is whose.


@pytest.mark.parametrize(("population", "keep"), [(8, 8), (10, 3), (4, 1), (24, 24)])
@pytest.mark.parametrize("method", ["difference", "bank", "neighbours"])
def test_the_first_rows_of_a_larger_run_are_the_smaller_run(
    population: int, keep: int, method: str, monkeypatch: pytest.MonkeyPatch
):
    def draw(n: int) -> tuple[Tensor, Report]:
        posterior: Any = posteriors.bank(SAMPLES.float(), calibration=CURVE)
        if method == "neighbours":
            posterior = posteriors.neighbours(SAMPLES.float(), CURVE)
        inner = None if method == "difference" else Doob(skewed, 2.0, 8, posterior)
        smc = Smc(skewed, 2.0, inner=inner, population=population, keep=keep, resample_at=0.9)
        return steering.run(compiled(), perceptron, (n, 2), seed=4, steer=smc, report=True)

    large, report = draw(50)
    populations = -(-50 // keep)
    assert report.network_rows == compiled().rows * populations * population  # a started population runs whole
    assert report.ancestry is not None
    assert report.ancestry.shape == (6, populations * population)
    assert not torch.equal(report.ancestry, torch.arange(populations * population).expand_as(report.ancestry))
    for n in (1, keep, 20):
        assert torch.equal(draw(n)[0], large[:n])
    monkeypatch.setattr(importlib.import_module("steering.sampling.run"), "GROUP_ELEMENTS", 1)
    grouped, merged = draw(50)
    assert torch.equal(grouped, large)
    for one, other in ((merged.log_z, report.log_z), (merged.ancestry, report.ancestry)):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
    assert merged.rewards is not None
    assert torch.equal(merged.rewards, skewed(large))


def test_a_tilt_is_told_who_continues_whom_and_so_is_the_report():
    tilt, plan, network = Following(), compiled(steps=10), GAUSSIAN.network(PATH)
    smc = Smc(slope, 0.3, inner=Follow(tilt), population=16)
    _, report = steering.run(plan, network, (32, 2), seed=2, steer=smc, report=True, tile=None)
    _, same = steering.run(plan, network, (32, 2), seed=2, steer=Smc(slope, 0.3, population=16), report=True, tile=None)
    assert report.ancestry is not None
    assert same.ancestry is not None
    assert torch.equal(report.ancestry, same.ancestry)  # log h = r(D), nothing moved: FK steering
    assert report.population_ess is not None
    assert report.population_ess.shape == (11, 2)
    resampled = (report.population_ess[:-1] < 8).any(dim=1)
    assert len(tilt.seen) == int(resampled.sum()) > 2
    assert torch.equal(torch.stack(tilt.seen), report.ancestry[resampled])
    lines = torch.arange(32)
    for ancestors in report.ancestry:
        assert torch.equal(ancestors // 16, torch.arange(32) // 16)  # nobody continues another population's chain
        lines = lines[ancestors]
    first = Noise(2, range(32)).normal(0xFFFFFFFF, 0, (2,), torch.float32) * plan.nodes[0].sigma
    assert torch.equal(tilt.first, first[lines])
    assert len(lines.unique()) < 24


# One condition a population, and what is refused.


def shifted(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
    return perceptron(x, t) + shift


def test_populations_have_conditions_of_their_own():
    shifts = torch.tensor([[2.0]] * 4 + [[-2.0]] * 4)
    smc, plan = Smc(skewed, population=4), compiled()
    x = steering.run(plan, shifted, (8, 2), condition={"shift": shifts}, steer=smc)
    for sign, rows in ((2.0, slice(0, 4)), (-2.0, slice(4, 8))):
        one = steering.run(plan, shifted, (8, 2), condition={"shift": torch.tensor([[sign]])}, steer=smc)
        assert torch.equal(x[rows], one[rows])
    with pytest.raises(SteeringError, match="shift: expected the same for all samples of a population, every 8"):
        steering.run(plan, shifted, (8, 2), condition={"shift": shifts}, steer=Smc(skewed, population=8))
    each = steering.run(plan, shifted, (8, 2), condition={"shift": shifts}, steer=fk_steering(skewed, particles=4))
    assert bool((each[:4] > each[4:]).all())


def test_a_given_start_is_kept():
    start = torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).repeat_interleave(8, dim=0)
    smc = Smc(slope, 0.5, inner=Doob(slope, 0.5, posterior=shared_bank()), population=8)
    x = steering.run(compiled(), GAUSSIAN.network(PATH), (16, 2), x_init=start, steer=smc, tile=None)
    assert bool(x.isfinite().all())
    with pytest.raises(SteeringError, match="x_init: expected the same"):
        steering.run(compiled(), perceptron, (16, 2), x_init=torch.randn(16, 2), steer=smc)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Smc(slope, population=1), "population: expected an integer >= 2, got 1"),
        (lambda: Smc(slope, population=8, keep=9), r"keep: expected an integer in 1\.\.8, got 9"),
        (lambda: Smc(slope, potential=cast(Any, "mean")), "unknown potential 'mean': expected one of difference, max"),
        (lambda: Smc(slope, potential="twisted"), "expected an inner method to take log h from"),
        (lambda: Smc(slope, inner=Doob(skewed)), "toward the same reward"),
        (lambda: Smc(slope, resample_at=1.5), r"resample_at: expected a number in 0\.\.1, got 1.5"),
        (lambda: Smc(slope, tempering=-1), r"tempering: expected a number in 0\.\.1, got -1"),
        (lambda: Smc(slope, every=0), "every: expected an integer >= 1, got 0"),
        (lambda: Smc(slope, beta=0), "beta: expected a finite number > 0, got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], Smc], complaint: str):
    with pytest.raises(SteeringError, match=complaint):
        make()


@pytest.mark.parametrize(
    ("solver", "complaint"),
    [
        ("dpmpp_2m", "solver 'dpmpp_2m' with eta 0 draws no noise, .* expected eta above 0, such as sde_dpmpp_2m"),
        ("rk45", "solver 'rk45' cannot be steered"),
    ],
)
def test_plans_it_cannot_use_are_refused(solver: str, complaint: str):
    with pytest.raises(SteeringError, match=complaint):
        steering.run(compiled(solver), perceptron, (4, 2), steer=Smc(slope))
