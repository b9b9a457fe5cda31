"""The interpolant's SDE: its drift and noise in the limit of small steps, and its relatives."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import steering
from steering.errors import PlanError
from steering.paths import Path
from steering.paths.base import Time
from steering.paths.flows import RectifiedFlow

from ..conftest import PATHS


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
def test_a_small_step_is_one_of_the_sde(path: Path, eta: float):
    """dx = (alpha' D + (1 + eta^2) sigma' (x - alpha D) / sigma) dt + eta sqrt(2 sigma sigma') dw."""
    s = path.t_min + 0.4 * (path.t_max - path.t_min)
    h = 1e-6 * s
    (stage,) = steering.plan(
        "interpolant_sde", path=path, steps=1, prediction="x0", grid=(s, s - h), eta=eta
    ).stages  # fmt: skip
    alpha, sigma, alpha_dot, sigma_dot = (float(f(s)) for f in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot))
    rate = (1 + eta**2) * sigma_dot / sigma
    assert (1 - stage.update.A[0][0]) / h == pytest.approx(rate, rel=1e-4)
    assert -stage.update.b[0] / h == pytest.approx(alpha_dot - rate * alpha, rel=1e-4)
    assert stage.update.C[0][0] ** 2 / h == pytest.approx(2 * eta**2 * sigma * sigma_dot, rel=1e-4)


def test_little_noise_leaves_ddim(path: Path):
    ours, ddims = (
        steering.plan(name, path=path, steps=6, prediction="x0", grid="logsnr", eta=eta).stages
        for name, eta in (("interpolant_sde", 1e-6), ("ddim", 0.0))
    )
    for one, other in zip(ours, ddims, strict=True):
        assert one.update.A[0] == pytest.approx(other.update.A[0], rel=1e-9)
        assert one.update.b == pytest.approx(other.update.b, rel=1e-9)
        assert one.update.C[0][0] < 1e-5 * one.update.to.sigma


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("kind", ["ve", "edm"])
def test_where_alpha_is_1_it_is_the_first_step_of_sde_dpmpp(kind: str, eta: float):
    ours, theirs = (
        steering.plan(name, path=PATHS[kind], steps=6, prediction="x0", grid="logsnr", eta=eta).stages[0].update
        for name in ("interpolant_sde", "dpmpp_2m")
    )
    assert ours.A[0] == pytest.approx(theirs.A[0], rel=1e-9)
    assert ours.b[0] == pytest.approx(theirs.b[0], rel=1e-9)
    assert ours.C[0] == pytest.approx(theirs.C[0], rel=1e-9)


def test_any_amount_of_noise_is_allowed_but_none():
    """Other than ddim's, its share of noise has no bound: as eta grows, a step forgets x_s but for D."""
    (stage,) = steering.plan(
        "interpolant_sde", path=PATHS["rectified_flow"], steps=1, prediction="x0", eta=100.0
    ).stages  # fmt: skip
    assert stage.update.A[0][0] == pytest.approx(0, abs=1e-12)
    assert stage.update.C[0][0] == pytest.approx(stage.update.to.sigma)
    with pytest.raises(PlanError, match=r"'interpolant_sde' is stochastic, .* without noise: interpolant_ode"):
        steering.plan("interpolant_sde", path=PATHS["edm"], steps=1, prediction="x0", eta=0.0)


@dataclass(frozen=True, kw_only=True)
class Humped(RectifiedFlow):
    """Noise that rises toward the data at first."""

    def sigma(self, t: Time) -> Tensor:
        return torch.sin(math.pi * torch.as_tensor(t, dtype=torch.float64))


def test_a_sigma_that_rises_on_the_way_is_refused():
    with pytest.raises(PlanError, match="'interpolant_sde': expected a sigma that falls from noise to data, got"):
        steering.plan("interpolant_sde", path=Humped(), steps=4, prediction="x0")
