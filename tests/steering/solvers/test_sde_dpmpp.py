"""SDE-DPM-Solver++: the paper's formulas, its relation to DDIM and to DPM-Solver++(2M), and its weak order."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import steering
from steering.errors import PlanError
from steering.paths import Path
from steering.plans.plan import Node, Plan, Stage
from steering.problems import GaussianMixture

from ..conftest import PATHS
from ..test_solvers import slopes


def stages(solver: str, path: Path, eta: float | None = None, steps: int = 7) -> tuple[Stage, ...]:
    return steering.plan(solver, path=path, steps=steps, prediction="x0", grid="karras", eta=eta).stages


def test_the_first_order_is_as_printed(path: Path):
    for stage in stages("sde_dpmpp_1", path):
        s, t, update = stage.update.at, stage.update.to, stage.update
        h = t.log_snr - s.log_snr
        assert update.A[0][0] == pytest.approx(t.sigma / s.sigma * math.exp(-h), rel=1e-9)
        assert update.b[0] == pytest.approx(t.alpha * (1 - math.exp(-2 * h)), rel=1e-9)
        assert update.C[0][0] == pytest.approx(t.sigma * math.sqrt(1 - math.exp(-2 * h)), rel=1e-9)


def test_the_second_order_is_as_printed(path: Path):
    """Of D_s and of D_r, the evaluation before it: alpha_t (1 - e^{-2h}) (D_s + (D_s - D_r) / 2 r_1)."""
    found = stages("sde_dpmpp_2m", path)
    assert found[0].update.b[0] == stages("sde_dpmpp_1", path)[0].update.b[0]
    for before, stage in pairwise(found):
        r, s, t, update = before.update.at, stage.update.at, stage.update.to, stage.update
        h = t.log_snr - s.log_snr
        r_1 = (s.log_snr - r.log_snr) / h
        gain = t.alpha * (1 - math.exp(-2 * h))
        assert update.A[0] == pytest.approx((t.sigma / s.sigma * math.exp(-h), -gain / (2 * r_1)), rel=1e-9)
        assert update.b == pytest.approx((gain * (1 + 1 / (2 * r_1)), 1), rel=1e-9)
        assert update.C[0][0] == pytest.approx(t.sigma * math.sqrt(1 - math.exp(-2 * h)), rel=1e-9)


def test_the_first_order_is_ddim_at_eta_1_and_at_no_other(path: Path):
    for one, other in zip(stages("sde_dpmpp_1", path), stages("ddim", path, eta=1.0), strict=True):
        assert one.update.A[0] == pytest.approx(other.update.A[0], rel=1e-7)
        assert one.update.b == pytest.approx(other.update.b, rel=1e-7)
        assert one.update.C[0] == pytest.approx(other.update.C[0], rel=1e-7)
    for one, other in zip(stages("sde_dpmpp_1", path, eta=0.5), stages("ddim", path, eta=0.5), strict=True):
        assert one.update.C[0][0] > other.update.C[0][0]


@pytest.mark.parametrize("eta", [0.3, 1.0, 1.4])
def test_the_second_order_is_dpmpp_2m_with_noise(path: Path, eta: float):
    assert stages("sde_dpmpp_2m", path, eta=eta) == stages("dpmpp_2m", path, eta=eta)


@pytest.mark.parametrize("solver", ["sde_dpmpp_1", "sde_dpmpp_2m"])
def test_noise_is_its_nature(solver: str):
    plan = steering.plan(solver, path=PATHS["edm"], steps=5, prediction="eps")
    assert plan.uses_noise
    assert plan.eta == 1
    twin = steering.solvers[solver].twin
    with pytest.raises(PlanError, match=f"'{solver}' is stochastic, .* without noise: {twin}"):
        steering.plan(solver, path=PATHS["edm"], steps=5, prediction="eps", eta=0.0)


def test_in_eps_the_sde_would_miss_even_a_point_mass(path: Path):
    """x_t = (alpha_t / alpha_s) x_s - 2 sigma_t (e^h - 1) eps + sigma_t sqrt(e^{2h} - 1) z, from eps ~ N(0, 1).

    That is why there is no such solver here: sigma_t^2 should be left.
    """
    for stage in stages("sde_dpmpp_1", path):
        s, t = stage.update.at, stage.update.to
        h = t.log_snr - s.log_snr
        eps = t.alpha / s.alpha * s.sigma - 2 * t.sigma * math.expm1(h)
        variance = eps**2 + t.sigma**2 * math.expm1(2 * h)
        assert variance == pytest.approx(t.sigma**2 * (1 + 2 * math.expm1(h) ** 2), rel=1e-6)


# Weak order where the denoiser is not linear. In one dimension the law of (x_prev, x) goes from step to step by an
# integral against a normal density, and sums over an even grid do such integrals to high accuracy.

DATA = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[0.8], [-0.6]], dtype=torch.float64),
    torch.tensor([[[0.09]], [[0.16]]], dtype=torch.float64),
)
GRID = torch.linspace(-4.5, 4.5, 101, dtype=torch.float64)
WIDTH = float(GRID[1] - GRID[0])


def marginal(node: Node) -> Tensor:
    """The density of x at a node, on the grid."""
    variance = node.alpha**2 * DATA.covariances[:, 0, 0] + node.sigma**2
    square = (GRID[:, None] - node.alpha * DATA.means[:, 0]) ** 2 / variance
    return (DATA.weights * torch.exp(-square / 2) / torch.sqrt(2 * math.pi * variance)).sum(dim=1)


def denoised(node: Node) -> Tensor:
    alpha, sigma = (torch.full_like(GRID, c) for c in (node.alpha, node.sigma))
    return DATA.denoised(GRID[:, None], alpha, sigma)[:, 0]


def total_variation(plan: Plan) -> float:
    """Between the law at the end of a plan and the marginal there, started from the marginal at its first node."""
    joint = (marginal(plan.nodes[0]) / (len(GRID) * WIDTH)).expand(len(GRID), -1)  # [x_prev, x], x_prev of no account
    before = torch.zeros_like(GRID)
    for stage in plan.stages:
        now, (a, *history), scale = denoised(stage.update.at), stage.update.A[0], stage.update.C[0][0]
        mean = a * GRID + stage.update.b[0] * now + sum(history) * before[:, None]
        kernel = torch.exp(-((GRID - mean[:, :, None]) ** 2) / (2 * scale**2)) / (scale * math.sqrt(2 * math.pi))
        joint, before = (joint[:, :, None] * kernel).sum(dim=0) * WIDTH, now  # [x, x_next]
    density = joint.sum(dim=0) * WIDTH
    return float((density - marginal(plan.nodes[-1])).abs().sum()) * WIDTH / 2


@pytest.mark.parametrize(("solver", "steps"), [("sde_dpmpp_1", (10, 20, 40)), ("sde_dpmpp_2m", (20, 40, 80))])
def test_the_law_converges_with_the_weak_order_on_a_mixture(solver: str, steps: tuple[int, ...]):
    whole = PATHS["vp_cosine"]
    path = whole.between(float(whole.time_of_log_snr(1.2)), whole.t_max)  # the grid resolves sigma down to 0.29
    plans = [steering.plan(solver, path=path, steps=n, prediction="x0", eta=0.7) for n in steps]
    orders = slopes([total_variation(plan) for plan in plans])
    assert orders == pytest.approx([steering.solvers[solver].order] * 2, abs=0.15)
