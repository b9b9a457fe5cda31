"""Ancestral sampling: k-diffusion's formulas, DDIM's, and Euler's without noise."""

import math

import pytest

import steering
from steering.errors import PlanError
from steering.paths import Path
from steering.plans.plan import Stage

from ..conftest import PATHS


def stages(solver: str, path: Path, eta: float | None = None) -> tuple[Stage, ...]:
    return steering.plan(solver, path=path, steps=7, prediction="eps", grid="karras", eta=eta).stages


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_a_step_goes_down_by_euler_and_up_by_noise(path: Path, eta: float):
    """In y = x / alpha at noise level rho, where the method is stated."""
    for stage in stages("euler_ancestral", path, eta=eta):
        s, t, update = stage.update.at, stage.update.to, stage.update
        up = min(t.rho, eta * math.sqrt(t.rho**2 * (s.rho**2 - t.rho**2) / s.rho**2))
        down = math.sqrt(t.rho**2 - up**2)
        # y + (y - D) / rho_s (rho_down - rho_s) + rho_up z
        share = down / s.rho
        assert update.A[0][0] == pytest.approx(t.alpha / s.alpha * share, rel=1e-9)
        assert update.b[0] == pytest.approx(t.alpha * (1 - share), rel=1e-9)
        assert update.C[0][0] == pytest.approx(t.alpha * up, rel=1e-9)


def test_it_is_ddim_of_the_same_eta_and_euler_without(path: Path):
    assert stages("euler_ancestral", path, eta=0.7) == stages("ddim", path, eta=0.7)
    for one, other in zip(stages("euler_ancestral", path, eta=1e-7), stages("euler", path), strict=True):
        assert one.update.A[0] == pytest.approx(other.update.A[0], rel=1e-9)
        assert one.update.b == pytest.approx(other.update.b, rel=1e-9)
        assert one.update.C[0][0] < 1e-5


def test_noise_is_its_nature():
    plan = steering.plan("euler_ancestral", path=PATHS["edm"], steps=5, prediction="eps")
    assert plan.uses_noise
    assert (plan.eta, plan.grid) == (1.0, "karras")
    with pytest.raises(PlanError, match=r"'euler_ancestral' is stochastic, .* without noise: euler"):
        steering.plan("euler_ancestral", path=PATHS["edm"], steps=5, prediction="eps", eta=0.0)
    with pytest.raises(PlanError, match="more noise than x_t holds"):
        steering.plan("euler_ancestral", path=PATHS["edm"], steps=5, prediction="eps", eta=1.5)
