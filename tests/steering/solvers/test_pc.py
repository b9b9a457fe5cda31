"""Predictor-corrector and annealed Langevin: the paper's discretisations, the law of their results, their cost."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering.errors import PlanError
from steering.plans.plan import Plan
from steering.problems import GaussianMixture, energy_distance

from ..conftest import PATHS
from ..test_solvers import law

SOME = ["vp_linear", "ve", "rectified_flow"]


def compiled(solver: str, path: str, steps: int, **options: Any) -> Plan:
    return steering.plan(solver, path=PATHS[path], steps=steps, prediction="score", **options)


def test_on_a_variance_preserving_path_it_is_algorithms_3_and_5():
    """x_i = (2 - sqrt(1 - beta)) x + beta S + sqrt(beta) z; then steps of e = 2 alpha_i r^2 |z|^2 / |S|^2."""
    for predictor, corrector in zip(*[iter(compiled("pc", "vp_linear", 12, snr=0.2).stages)] * 2, strict=True):
        s, t = predictor.update.at, predictor.update.to
        beta = 1 - (s.alpha / t.alpha) ** 2
        x, data, z = predictor.update.A[0][0], predictor.update.b[0], predictor.update.C[0][0]
        assert data == pytest.approx(beta * s.alpha / s.sigma**2)  # S = (alpha D - x) / sigma^2
        assert x == pytest.approx(2 - math.sqrt(1 - beta) - beta / s.sigma**2)
        assert z == pytest.approx(math.sqrt(beta))
        e = 2 * (1 - beta) * (0.2 * t.sigma) ** 2  # |z| / |S| of a state of noise alone
        x, data, z = corrector.update.A[0][0], corrector.update.b[0], corrector.update.C[0][0]
        assert (x, data, z) == pytest.approx((1 - e / t.sigma**2, e * t.alpha / t.sigma**2, math.sqrt(2 * e)))


def test_on_a_variance_exploding_path_it_is_algorithms_2_and_4():
    for predictor, corrector in zip(*[iter(compiled("pc", "ve", 12, snr=0.2).stages)] * 2, strict=True):
        s, t = predictor.update.at, predictor.update.to
        variance = s.sigma**2 - t.sigma**2
        assert predictor.update.C[0][0] == pytest.approx(math.sqrt(variance))
        assert predictor.update.b[0] == pytest.approx(variance / s.sigma**2)
        assert predictor.update.A[0][0] == pytest.approx(1 - variance / s.sigma**2)
        assert corrector.update.C[0][0] == pytest.approx(2 * 0.2 * t.sigma)


def deviation(plan: Plan) -> float:
    """Wasserstein-2 distance of the last state's law from the marginal, on Gaussian data of standard deviation 1/2."""
    m, v, last = 0.7, 0.25, plan.nodes[-1]
    mean, variance = law(plan, m, v)
    return math.hypot(mean - last.alpha * m, variance**0.5 - (last.alpha**2 * v + last.sigma**2) ** 0.5)


@pytest.mark.parametrize("path", SOME)
@pytest.mark.parametrize(
    ("solver", "corrections"), [("pc", 0), ("pc", 1), ("pc", 2), ("annealed_langevin", 5), ("annealed_langevin", 20)]
)
def test_the_law_on_a_gaussian_is_of_first_order(path: str, solver: str, corrections: int):
    errors = [deviation(compiled(solver, path, steps, corrections=corrections)) for steps in (250, 500, 1000)]
    assert all(1.7 < coarse / fine < 2.7 for coarse, fine in pairwise(errors))
    assert 0 < errors[-1] < 0.05


@pytest.mark.parametrize("path", SOME)
def test_corrections_bring_the_predictors_law_nearer(path: str):
    errors = [deviation(compiled("pc", path, 160, corrections=moves)) for moves in (0, 1, 2, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("path", SOME)
def test_langevin_moves_alone_converge_to_the_level(path: str):
    """Many moves at each level forget where they came from, and even at 20 levels the law is near."""
    assert deviation(compiled("annealed_langevin", path, 20, corrections=32, snr=0.5)) < 0.1


def samples(plan: Plan, mixture: GaussianMixture, n: int) -> Tensor:
    return steering.run(plan, mixture.network(plan.path, "score"), (n, 2), seed=4, dtype=torch.float64, tile=None)


@pytest.mark.parametrize("path", ["vp_cosine", "edm"])
def test_samples_of_a_mixture_follow_it(path: str, mixture: GaussianMixture):
    n = 1500
    exact, other = mixture.sample(n, 1), mixture.sample(n, 2)
    for plan in (compiled("pc", path, 100), compiled("annealed_langevin", path, 100, corrections=10)):
        x = samples(plan, mixture, n) / plan.nodes[-1].alpha
        assert energy_distance(x, exact) < 0.02 + abs(energy_distance(exact, other))


def test_samples_follow_the_law_of_the_plan():
    n, d, plan = 2000, 8, compiled("pc", "vp_linear", 12, corrections=2, snr=0.3)
    m, v, first = 0.7, 0.25, plan.nodes[0]
    g = torch.Generator().manual_seed(2)
    spread = (first.alpha**2 * v + first.sigma**2) ** 0.5
    x_init = first.alpha * m + spread * torch.randn(n, d, generator=g, dtype=torch.float64)

    def network(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = plan.path.alpha(t)[:, None], plan.path.sigma(t)[:, None]
        return -(x - alpha * m) / (alpha**2 * v + sigma**2)

    x = steering.run(plan, network, (n, d), seed=3, x_init=x_init, dtype=torch.float64, tile=None)
    mean, variance = law(plan, m, v)
    assert float(x.mean()) == pytest.approx(mean, abs=5 * (variance / (n * d)) ** 0.5)
    assert float(x.var()) == pytest.approx(variance, rel=5 * (2 / (n * d)) ** 0.5)


def test_rows():
    assert [compiled("pc", "edm", 10, corrections=k).rows for k in (0, 1, 3)] == [10, 20, 40]
    assert [compiled("annealed_langevin", "edm", 10, corrections=k).rows for k in (1, 4)] == [11, 44]
    assert compiled("pc", "edm", 10).uses_noise


def test_it_is_a_table_and_can_be_steered(mixture: GaussianMixture):
    plan = compiled("pc", "vp_cosine", 20)
    tilt = steering.Doob(lambda x: x[:, 0], beta=0.5)
    network = mixture.network(plan.path, "score")
    plain, steered = (steering.run(plan, network, (200, 2), seed=1, steer=steer) for steer in (None, tilt))
    assert float(steered[:, 0].mean() - plain[:, 0].mean()) > 0.5


@pytest.mark.parametrize("solver", ["pc", "annealed_langevin"])
def test_what_it_cannot_do_is_refused(solver: str):
    for options, complaint in (
        ({"corrections": 1.5}, r"corrections: expected a whole number in \d\.\.32, got 1\.5"),
        ({"corrections": 33}, r"corrections: expected a whole number in \d\.\.32, got 33"),
        ({"snr": 0.8}, r"snr: expected a number in .*\.\.0\.7, got 0\.8"),
        ({"eta": 0.5}, rf"solver '{solver}' takes eta 0 only, got 0\.5"),
    ):
        with pytest.raises(PlanError, match=complaint):
            compiled(solver, "edm", 10, **options)
