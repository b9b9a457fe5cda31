"""iPNDM: constant weights, what they are exact for, and the error they make on grids that are not even in rho."""

from itertools import pairwise

import pytest
import torch

import steering
from steering.paths import Path
from steering.plans.plan import Plan

from ..conftest import PATHS
from .test_deis import coefficients


def weights(plan: Plan) -> list[list[float]]:
    """c_j in each step of a plan, newest first."""
    return [
        [c / (t.alpha * (t.rho - s.rho)) for c in row]
        for (s, t), row in zip(pairwise(plan.nodes), coefficients(plan), strict=True)
    ]


def test_weights_are_those_of_the_paper(path: Path):
    """PNDM, arXiv:2202.09778, eq. 12: (55 e_t - 59 e_{t-1} + 37 e_{t-2} - 9 e_{t-3}) / 24, on any grid."""
    plan = steering.plan("ipndm_4", path=path, steps=6, prediction="eps", grid="karras")
    start = [[1.0], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12]]
    rest = [55 / 24, -59 / 24, 37 / 24, -9 / 24]
    for i, found in enumerate(weights(plan)):
        expected = start[i] if i < 3 else rest + [0.0] * (i - 3)
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_on_a_grid_even_in_rho_it_is_rhoab(k: int):
    """And so of order k there."""
    grid = torch.linspace(2.0, 0.1, 9, dtype=torch.float64).tolist()
    ours, deis = (
        steering.plan(solver, path=PATHS["edm"], steps=8, prediction="eps", grid=grid)
        for solver in (f"ipndm_{k}", f"deis_rhoab{k - 1}")
    )
    for one, other in zip(ours.stages, deis.stages, strict=True):
        assert one.update.b == pytest.approx(other.update.b, rel=1e-9)


@pytest.mark.parametrize("k", [3, 4])
def test_on_other_grids_three_values_or_more_leave_a_third_order_error_in_a_step(k: int):
    """h^3 / 12 rho'' eps' for steps of h in u: with u = log-SNR, rho = e^-u, and here eps = u."""
    steps = 400
    plan = steering.plan(f"ipndm_{k}", path=PATHS["edm"], steps=steps, prediction="eps", grid="logsnr")
    registers = [torch.zeros(1, dtype=torch.float64)]
    for stage in plan.stages[: steps // 2]:
        s, t, before = stage.update.at, stage.update.to, registers[0]
        registers = stage.advance(registers, before - s.sigma * s.log_snr)
    h = t.log_snr - s.log_snr
    exact = t.rho * (1 + t.log_snr) - s.rho * (1 + s.log_snr)  # of u d rho = -u e^-u du
    assert exact - float(registers[0] - before) == pytest.approx(h**3 / 12 * s.rho, rel=0.05)


def test_the_declared_order_is_that_of_the_grids_in_use():
    assert [steering.solvers[f"ipndm_{k}"].order for k in (1, 2, 3, 4)] == [1, 2, 2, 2]
