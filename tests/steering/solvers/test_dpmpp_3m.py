"""DPM-Solver++(3M): what a step of it integrates exactly, and what half of the second derivative costs."""

import math
from itertools import pairwise

import pytest
import torch

import steering
from steering.paths import Path
from steering.plans.plan import Plan

from ..conftest import PATHS
from ..test_solvers import GAUSSIAN, MIXTURE, flowed, reference, slopes, start

CURVE = (0.7, -0.4, 0.25)


def curve(log_snr: float) -> float:
    """A denoiser that is a parabola in log-SNR, whatever the state."""
    a, b, c = CURVE
    return a + b * log_snr + c * log_snr**2


def integral(log_snr: float) -> float:
    """An antiderivative of e^lambda times that parabola."""
    a, b, c = CURVE
    return math.exp(log_snr) * (a - b + 2 * c + (b - 2 * c) * log_snr + c * log_snr**2)


def gains(plan: Plan) -> list[float]:
    """x_t / sigma_t - x_s / sigma_s in each step of a plan, with `curve` for the denoiser."""
    registers, found = [torch.zeros(1, dtype=torch.float64)], []
    for stage in plan.stages:
        s, t, before = stage.update.at, stage.update.to, registers[0]
        registers = stage.advance(registers, torch.full_like(before, curve(s.log_snr)))
        found.append(float(registers[0] / t.sigma - before / s.sigma))
    return found


def test_a_step_is_exact_where_the_denoiser_is_a_parabola(path: Path):
    """x_t / sigma_t - x_s / sigma_s = int e^lambda D d lambda (arXiv:2211.01095, proposition 4.1)."""
    plan = steering.plan("dpmpp_3m", path=path, steps=9, prediction="x0", grid="karras")
    for i, ((s, t), gain) in enumerate(zip(pairwise(plan.nodes), gains(plan), strict=True)):
        exact = integral(t.log_snr) - integral(s.log_snr)
        assert (gain == pytest.approx(exact, rel=1e-6)) == (i >= 2)


def test_compat_lacks_half_of_the_second_derivative(path: Path):
    """Its error there is alpha_t phi_3 h^2 D'' / 2, of third order in h: a second order method."""
    plan = steering.plan("dpmpp_3m_compat", path=path, steps=9, prediction="x0", grid="karras")
    for (s, t), gain in list(zip(pairwise(plan.nodes), gains(plan), strict=True))[2:]:
        h = t.log_snr - s.log_snr
        phi_3 = 0.5 - (1 - (1 - math.exp(-h)) / h) / h
        missing = t.alpha / t.sigma * phi_3 * h**2 * 2 * CURVE[2] / 2
        exact = integral(t.log_snr) - integral(s.log_snr)
        assert exact - gain == pytest.approx(missing, rel=1e-5)


@pytest.mark.parametrize("grid", ["logsnr", "karras"])
@pytest.mark.parametrize(("solver", "order"), [("dpmpp_3m", 3), ("dpmpp_3m_compat", 2)])
def test_the_factor_makes_the_order(solver: str, order: int, grid: str):
    path, errors = PATHS["vp_cosine"], []
    for steps in (80, 160, 320):
        plan = steering.plan(solver, path=path, steps=steps, prediction="x0", grid=grid)
        x = steering.run(plan, MIXTURE.network(path), (16, 2), x_init=start(path, 2), dtype=torch.float64)
        errors.append(float((x - reference(path)).norm()))
    assert steering.solvers[solver].order == order
    assert slopes(errors) == pytest.approx([order] * 2, abs=0.2)


def test_on_gaussian_data_even_steps_in_log_snr_gain_an_order():
    """The step's error h^4 D''' reaches the end with a factor proportional to g, if D - m = xi g along the flow.

    N(m, v) has g = v e^lambda / sqrt(v e^{2 lambda} + 1), and int g g''' d lambda = [g g'' - g'^2 / 2] is 0 from noise
    to data, where g is flat. Uneven steps weight the integrand by h^3, and the order is 3.
    """
    path = PATHS["vp_linear"]
    network, x_init = GAUSSIAN.network(path), start(path, 3)
    for grid, order in (("logsnr", 4), ("karras", 3)):
        errors = []
        for steps in (40, 80, 160):
            plan = steering.plan("dpmpp_3m", path=path, steps=steps, prediction="x0", grid=grid)
            x = steering.run(plan, network, (16, 3), x_init=x_init, dtype=torch.float64)
            errors.append(float((x - flowed(path, x_init)).norm()))
        assert slopes(errors) == pytest.approx([order] * 2, abs=0.15)
