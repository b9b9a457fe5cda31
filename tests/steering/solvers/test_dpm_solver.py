"""Single-step DPM-Solver and DPM-Solver++ against the algorithms of their papers, written once more as printed."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import steering
from steering.paths import Path
from steering.plans.plan import Node
from steering.solvers.dpm_solver import DATA, NOISE

from ..conftest import PATHS
from ..test_solvers import MIXTURE, law, reference, slopes, start


class Printed:
    """The papers' symbols: alpha_t, sigma_t, lambda_t and its inverse t_lambda; eps_theta and x_theta of MIXTURE."""

    def __init__(self, path: Path) -> None:
        self.path, self.network = path, MIXTURE.network(path)

    def at(self, t: float) -> tuple[float, float, float]:
        return float(self.path.alpha(t)), float(self.path.sigma(t)), float(self.path.log_snr(t))

    def inverse(self, log_snr: float) -> float:
        return float(self.path.time_of_log_snr(log_snr))

    def data(self, x: Tensor, t: float) -> Tensor:
        return self.network(x, torch.full((len(x),), t, dtype=torch.float64))

    def noise(self, x: Tensor, t: float) -> Tensor:
        alpha, sigma, _ = self.at(t)
        return (x - alpha * self.data(x, t)) / sigma

    def dpm_solver_1(self, x: Tensor, s: float, t: float) -> Tensor:
        """arXiv:2206.00927, eq. 3.7."""
        (alpha_s, _, lambda_s), (alpha_t, sigma_t, lambda_t) = self.at(s), self.at(t)
        return alpha_t / alpha_s * x - sigma_t * (math.exp(lambda_t - lambda_s) - 1) * self.noise(x, s)

    def dpm_solver_2(self, x: Tensor, s: float, t: float) -> Tensor:
        """Algorithm 1."""
        (alpha_s, _, lambda_s), (alpha_t, sigma_t, lambda_t) = self.at(s), self.at(t)
        h, s_i = lambda_t - lambda_s, self.inverse((lambda_s + lambda_t) / 2)
        alpha_i, sigma_i, _ = self.at(s_i)
        u = alpha_i / alpha_s * x - sigma_i * (math.exp(h / 2) - 1) * self.noise(x, s)
        return alpha_t / alpha_s * x - sigma_t * (math.exp(h) - 1) * self.noise(u, s_i)

    def dpm_solver_3(self, x: Tensor, s: float, t: float) -> Tensor:
        """Algorithm 2."""
        r_1, r_2 = 1 / 3, 2 / 3
        (alpha_s, _, lambda_s), (alpha_t, sigma_t, lambda_t) = self.at(s), self.at(t)
        h = lambda_t - lambda_s
        s_1, s_2 = self.inverse(lambda_s + r_1 * h), self.inverse(lambda_s + r_2 * h)
        (alpha_1, sigma_1, _), (alpha_2, sigma_2, _) = self.at(s_1), self.at(s_2)
        eps = self.noise(x, s)
        u_1 = alpha_1 / alpha_s * x - sigma_1 * (math.exp(r_1 * h) - 1) * eps
        D_1 = self.noise(u_1, s_1) - eps
        u_2 = (
            alpha_2 / alpha_s * x
            - sigma_2 * (math.exp(r_2 * h) - 1) * eps
            - sigma_2 * r_2 / r_1 * ((math.exp(r_2 * h) - 1) / (r_2 * h) - 1) * D_1
        )
        D_2 = self.noise(u_2, s_2) - eps
        return (
            alpha_t / alpha_s * x
            - sigma_t * (math.exp(h) - 1) * eps
            - sigma_t / r_2 * ((math.exp(h) - 1) / h - 1) * D_2
        )

    def dpmpp_2s(self, x: Tensor, s: float, t: float, r: float = 0.5) -> Tensor:
        """arXiv:2211.01095, algorithm 1."""
        (_, sigma_s, lambda_s), (alpha_t, sigma_t, lambda_t) = self.at(s), self.at(t)
        h = lambda_t - lambda_s
        s_i = self.inverse(lambda_s + r * h)
        alpha_i, sigma_i, _ = self.at(s_i)
        u = sigma_i / sigma_s * x - alpha_i * (math.exp(-r * h) - 1) * self.data(x, s)
        D = (1 - 1 / (2 * r)) * self.data(x, s) + 1 / (2 * r) * self.data(u, s_i)
        return sigma_t / sigma_s * x - alpha_t * (math.exp(-h) - 1) * D


@pytest.mark.parametrize("solver", ["dpm_solver_1", "dpm_solver_2", "dpm_solver_3", "dpmpp_2s"])
def test_it_is_the_printed_algorithm(path: Path, solver: str):
    plan, printed = steering.plan(solver, path=path, steps=6, prediction="x0"), Printed(path)
    x = start(path, 2)
    mine = steering.run(plan, MIXTURE.network(path), (16, 2), x_init=x, dtype=torch.float64)
    for s, t in pairwise(plan.nodes):
        x = getattr(printed, solver)(x, s.t, t.t)
    assert torch.allclose(mine, x, rtol=1e-7, atol=1e-9)


def test_data_and_noise_prediction_mirror_each_other(path: Path):
    """x = alpha D + sigma eps is the same with alpha and sigma, D and eps exchanged, and log-SNR's sign with them.

    This is where dpmpp_3s has its formulas from: the paper prints those of the second order only.
    """

    def mirrored(node: Node) -> Node:
        return Node(node.t, node.sigma, node.alpha, -node.log_snr)

    for s, t in pairwise(steering.plan("ddim", path=path, steps=5, prediction="x0").nodes):
        assert DATA.integral(s, t) == NOISE.integral(mirrored(s), mirrored(t))
        x, d = NOISE.form(mirrored(t))  # D = (x - sigma eps) / alpha, the mirror of eps = (x - alpha D) / sigma
        assert (x * t.alpha, x * t.sigma + d) == pytest.approx((1, 0))


@pytest.mark.parametrize(
    ("solver", "fractions"),
    [("dpm_solver_2", [0, 1 / 2]), ("dpm_solver_3", [0, 1 / 3, 2 / 3]), ("dpmpp_3s", [0, 1 / 3, 2 / 3])],
)
def test_evaluations_lie_at_their_fractions_of_a_step_in_log_snr(path: Path, solver: str, fractions: list[float]):
    plan = steering.plan(solver, path=path, steps=4, prediction="x0", grid="karras")
    seen = [stage.update.at.log_snr for stage in plan.stages]
    steps = list(pairwise(node.log_snr for node in plan.nodes))
    assert seen == pytest.approx([a + r * (b - a) for a, b in steps for r in fractions], abs=1e-8)


def test_the_first_order_is_ddim_without_noise(path: Path):
    plans = [steering.plan(name, path=path, steps=7, prediction="eps") for name in ("dpm_solver_1", "ddim")]
    for one, other in zip(*(plan.stages for plan in plans), strict=True):
        assert one.update.A[0] == pytest.approx(other.update.A[0], rel=1e-9)
        assert one.update.b == pytest.approx(other.update.b, rel=1e-9)


@pytest.mark.parametrize("solver", ["dpm_solver_2", "dpm_solver_3", "dpmpp_2s", "dpmpp_3s"])
@pytest.mark.parametrize("name", ["vp_cosine", "rectified_flow"])
def test_the_order_holds_with_uneven_steps(name: str, solver: str):
    path, order, errors = PATHS[name], steering.solvers[solver].order, []
    for steps in (40, 80, 160):
        plan = steering.plan(solver, path=path, steps=steps, prediction="x0", grid="karras")
        x = steering.run(plan, MIXTURE.network(path), (16, 2), x_init=start(path, 2), dtype=torch.float64)
        errors.append(float((x - reference(path)).norm()))
    assert slopes(errors) == pytest.approx([order] * 2, abs=0.15)


@pytest.mark.parametrize("solver", ["dpm_solver_2", "dpm_solver_3"])
def test_noise_prediction_samples_a_point_mass_exactly(path: Path, solver: str):
    """Up to rounding, which a step multiplies by its ratio of rho: by less than 20 here."""
    plan = steering.plan(solver, path=path, steps=8, prediction="x0")
    mean, variance = law(plan, m=3.0, v=0.0)
    last = plan.nodes[-1]
    assert mean == pytest.approx(3 * last.alpha, rel=1e-9)
    assert variance == pytest.approx(last.sigma**2, rel=1e-5)
