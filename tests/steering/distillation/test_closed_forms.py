"""Gradients on Gaussian priors, whose closed forms say the sign, the scale and the fixed points."""

import math
from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import paths
from steering.distillation import Distilled, Times, noises
from steering.numerics.noise import Noise
from steering.plans.plan import Stage
from steering.problems import GaussianMixture, Quadratic
from steering.sampling.rows import Rows
from steering.sampling.sampler import Guided, Problem, Tilt, Tilting

D, S, VIEWS = 8, 0.7, 3
RHO1, RHO2 = 0.9, 0.6
ITERATION, SEED = 3, 5
MEAN = torch.randn(D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
A = torch.randn(D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
B, BETA = 1.3, 0.8
EYE = torch.eye(D, dtype=torch.float64)
PRIOR = GaussianMixture(torch.ones(1, dtype=torch.float64), MEAN[None], EYE[None] * S**2)
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
PATHS = {
    "ve": paths.ve(sigma_min=0.02, sigma_max=80.0),
    "vp": paths.vp_cosine(),
    "flow": paths.rectified_flow(),
    "discrete": paths.vp_betas(),
}


class Exact(Tilting, Tilt):
    """D_h in closed form."""

    def __init__(self, law: Quadratic) -> None:
        self.law = law

    def prepare(self, problem: Problem) -> Generator[Rows, Tensor, Tilt]:
        yield from ()
        return self

    def steer(self, stage: Stage, x: Tensor, denoised: Tensor, noise: Noise) -> Generator[Rows, Tensor, Guided]:
        yield from ()
        at = stage.update.at
        alpha, sigma = (torch.full((len(x),), c, dtype=torch.float64) for c in (at.alpha, at.sigma))
        return Guided(self.law.denoised(x, alpha, sigma))


TILT = Quadratic(PRIOR, A / BETA, EYE * B / BETA)
S_H = math.sqrt(1 / (1 / S**2 + B / BETA))
MEAN_H = S_H**2 * (MEAN / S**2 + A / BETA)


def at(path: paths.Path, *rho: float) -> Times:
    """Times of noise levels."""
    t = path.time_of_log_snr(-torch.log(torch.tensor(rho, dtype=torch.float64)))
    return Times(t[0], t[1] if len(rho) > 1 else None)


def views(dtype: torch.dtype, seed: int = 2) -> Tensor:
    return torch.randn(VIEWS, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def noise(kind: str, iteration: int = ITERATION) -> Tensor:
    return noises.normal(kind, SEED, iteration, range(VIEWS), 1, (D,))[0]


def distilled(
    x: Tensor, mode: str, path: paths.Path = PATHS["ve"], prediction: str = "x0", law: GaussianMixture = PRIOR,
    iteration: int = ITERATION, times: Times | None = None, **other: Any,
) -> Distilled:  # fmt: skip
    return steering.distill(
        law.network(path, prediction), x, path=path, prediction=prediction, iteration=iteration, seed=SEED, mode=mode,
        times=times or at(path, RHO1, RHO2), dtype=x.dtype, **other,
    )  # fmt: skip


def cds(x: Tensor, n: Tensor, m: Tensor = MEAN, s: float = S, r1: float = RHO1, r2: float = RHO2) -> Tensor:
    return (x - m + r1 * n) * s**2 * (r1 - r2) / ((s**2 + r1**2) * (s**2 + r2**2))


def sds(x: Tensor, n: Tensor, m: Tensor = MEAN, s: float = S, r: float = RHO1) -> Tensor:
    return (r * (x - m) - s**2 * n) / (s**2 + r**2)


FORMS: dict[str, tuple[str, Callable[..., Tensor]]] = {"cds": ("fixed", cds), "sds": ("iteration", sds)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prediction", ["x0", "eps", "v", "score"])
@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("mode", FORMS)
def test_plain_gradients_are_the_closed_forms(mode: str, name: str, prediction: str, dtype: torch.dtype) -> None:
    """The sign included, on every kind of path and for every prediction."""
    x = views(dtype)
    kind, form = FORMS[mode]
    got = distilled(x, mode, PATHS[name], prediction)
    wanted = form(x.double(), noise(kind))
    assert float((VIEWS * got.gradient.double() - wanted).abs().max()) < TOLERANCE[dtype]
    assert got.gradient.dtype == dtype
    assert got.network_rows == VIEWS * (2 if mode == "cds" else 1)
    assert torch.allclose(got.rho1, torch.full((VIEWS,), RHO1, dtype=torch.float64), rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("mode", FORMS)
def test_tilted_gradients_are_those_of_the_tilted_law(mode: str, name: str, dtype: torch.dtype) -> None:
    """A quadratic reward makes N(m_h, s_h^2) of N(m, s^2)."""
    x = views(dtype)
    kind, form = FORMS[mode]
    got = distilled(x, mode, PATHS[name], steer=Exact(TILT))
    wanted = form(x.double(), noise(kind), MEAN_H, S_H)
    assert float((VIEWS * got.gradient.double() - wanted).abs().max()) < TOLERANCE[dtype]


def test_the_tilted_law_of_a_quadratic_reward() -> None:
    """m_h and s_h of the formula are those of the law that D_h is made of."""
    law = TILT.law
    assert torch.allclose(law.means[0], MEAN_H, atol=1e-12)
    assert torch.allclose(law.covariances[0], EYE * S_H**2, atol=1e-12)
