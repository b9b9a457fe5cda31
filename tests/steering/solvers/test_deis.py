"""DEIS: its coefficients in closed form and by quadrature, and what its first step leaves."""

import math
from itertools import pairwise

import pytest
import torch
from numpy.polynomial import Polynomial
from scipy.integrate import quad

import steering
from steering.paths import Path, VPLinear
from steering.plans.plan import Node, Plan

from ..conftest import PATHS
from ..test_solvers import GAUSSIAN, flowed, slopes, start


def coefficients(plan: Plan) -> list[list[float]]:
    """alpha_t C_j in each step of a plan, newest first: what a unit of eps at node j alone adds to x_t."""
    found: list[list[float]] = []
    for i in range(plan.steps):
        row = []
        for j in range(i, -1, -1):
            registers = [torch.zeros(1, dtype=torch.float64)]
            for stage in plan.stages[: i + 1]:
                at, eps = stage.update.at, float(stage.index == j)
                before = registers[0]
                registers = stage.advance(registers, (before - at.sigma * eps) / at.alpha)
            row.append(float(registers[0] - before * stage.update.to.alpha / at.alpha))
        found.append(row)
    return found


def lagrange(values: list[float], j: int, at: float) -> float:
    return math.prod((at - v) / (values[j] - v) for k, v in enumerate(values) if k != j)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_tab_is_equation_15_of_the_paper(k: int):
    """C_ij = int Psi(t_{i-1}, tau) G G^T(tau) / (2 L(tau)) l_j(tau) d tau; on VP G G^T = beta, L = sigma."""
    path = PATHS["vp_linear"]
    assert isinstance(path, VPLinear)
    plan = steering.plan(f"deis_tab{k}", path=path, steps=7, prediction="eps")

    def beta(t: float) -> float:
        return path.beta_min + t * (path.beta_max - path.beta_min)

    for i, ((s, t), found) in enumerate(zip(pairwise(plan.nodes), coefficients(plan), strict=True)):
        times = [node.t for node in plan.nodes[max(0, i - k) : i + 1]][::-1]
        for j in range(len(times)):

            def integrand(tau: float, j: int = j, times: list[float] = times, t: Node = t) -> float:
                psi = t.alpha / float(path.alpha(tau))
                return psi * beta(tau) / (2 * float(path.sigma(tau))) * lagrange(times, j, tau)

            exact, _ = quad(integrand, s.t, t.t, epsabs=0, epsrel=1e-10)
            assert found[j] == pytest.approx(exact, rel=1e-7)
        assert found[len(times) :] == pytest.approx([0.0] * (i + 1 - len(times)), abs=1e-12)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_rhoab_integrates_its_polynomials_exactly(path: Path, k: int):
    """C_j = int l_j d rho, from the polynomials' own coefficients."""
    plan = steering.plan(f"deis_rhoab{k}", path=path, steps=7, prediction="eps")
    for i, ((s, t), found) in enumerate(zip(pairwise(plan.nodes), coefficients(plan), strict=True)):
        rhos = [node.rho for node in plan.nodes[max(0, i - k) : i + 1]][::-1]
        for j, rho in enumerate(rhos):
            others = [other - s.rho for other in rhos if other != rho]
            basis = Polynomial.fromroots(others) if others else Polynomial([1.0])
            area = (basis / basis(rho - s.rho)).integ()(t.rho - s.rho)
            assert found[j] == pytest.approx(t.alpha * area, rel=1e-8)


def test_rhoab1_is_the_two_step_rule(path: Path):
    """Adams-Bashforth with h = rho_t - rho_s after h': h (1 + h / 2 h') eps_s - h^2 / 2 h' eps'."""
    plan = steering.plan("deis_rhoab1", path=path, steps=7, prediction="eps", grid="karras")
    nodes, found = plan.nodes, coefficients(plan)
    for i in range(1, plan.steps):
        before, h = nodes[i].rho - nodes[i - 1].rho, nodes[i + 1].rho - nodes[i].rho
        weights = [h * (1 + h / before / 2), -(h**2) / before / 2]
        assert found[i][:2] == pytest.approx([nodes[i + 1].alpha * w for w in weights], rel=1e-8)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_where_time_is_rho_the_two_are_one(k: int):
    tab, rhoab = (
        steering.plan(f"deis_{name}{k}", path=PATHS["edm"], steps=9, prediction="eps") for name in ("tab", "rhoab")
    )
    for one, other in zip(tab.stages, rhoab.stages, strict=True):
        assert one.update.b == pytest.approx(other.update.b, rel=1e-9)


@pytest.mark.parametrize("name", ["deis_tab0", "deis_rhoab0"])
def test_one_node_is_ddim(path: Path, name: str):
    plans = (steering.plan(solver, path=path, steps=9, prediction="eps") for solver in (name, "ddim"))
    for one, other in zip(*(plan.stages for plan in plans), strict=True):
        assert one.update.A[0] == pytest.approx(other.update.A[0], rel=1e-9)
        assert one.update.b == pytest.approx(other.update.b, rel=1e-9)


@pytest.mark.parametrize("solver", ["deis_tab2", "deis_tab3", "deis_rhoab3"])
def test_from_a_state_midway_the_first_step_leaves_order_2(solver: str):
    path = PATHS["vp_cosine"].between(1e-3, 0.5)
    network, x_init, errors = GAUSSIAN.network(path), start(path, 3), []
    for steps in (40, 80, 160):
        plan = steering.plan(solver, path=path, steps=steps, prediction="x0")
        x = steering.run(plan, network, (16, 3), x_init=x_init, dtype=torch.float64, tile=None)
        errors.append(float((x - flowed(path, x_init)).norm()))
    assert slopes(errors) == pytest.approx([2, 2], abs=0.15)
