"""Gradients on Gaussian priors, whose closed forms say the sign, the scale and the fixed points."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import distillation, paths
from steering.distillation import Distilled, Settings, Times, noises
from steering.problems import Exact, GaussianMixture, Quadratic
from steering.sampling.sampler import Problem

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


@pytest.mark.parametrize("name", PATHS)
def test_interval_score_matching_on_a_gaussian(name: str) -> None:
    """With one step of inversion: u = z - m goes from the cleanest level to rho2 and rho1 by Euler's steps."""
    path, x = PATHS[name], views(torch.float64)
    problem = Problem(plan=distillation.prior(path, "x0"), event=(D,), dtype=torch.float64)
    settings = Settings(mode="ism", times=at(path, RHO1, RHO2), stride=1000.0)
    asking = distillation.gradient(problem, x, settings, iteration=0, seed=0)
    got = steering.solve(asking, PRIOR.network(path))

    def slope(u: Tensor, rho: float) -> Tensor:
        return u * rho / (S**2 + rho**2)

    rho0 = float(path.sigma(path.finite.t_min) / path.alpha(path.finite.t_min))
    u2 = (x - MEAN) + (RHO2 - rho0) * slope(x - MEAN, rho0)
    u1 = u2 + (RHO1 - RHO2) * slope(u2, RHO2)
    wanted = slope(u1, RHO1) - slope(u2, RHO2)
    assert float((VIEWS * got.gradient - wanted).abs().max()) < 1e-12
    assert got.network_rows == 3 * VIEWS == distillation.network_rows(problem, settings, got.rho2)
    assert bool(((x - MEAN) * got.gradient > 0).all()), "down the gradient is toward the mean"


@pytest.mark.parametrize("mode", ["cds", "ism"])
def test_a_point_as_prior_has_no_gradient(mode: str) -> None:
    """All points of its trajectories lie on one line."""
    point = GaussianMixture(torch.ones(1, dtype=torch.float64), MEAN[None], 0 * EYE[None])
    got = distilled(views(torch.float64), mode, law=point)
    assert float(got.gradient.abs().max()) < 1e-12


@pytest.mark.parametrize("tilted", [False, True])
def test_fixed_points(tilted: bool) -> None:
    """CDS stops at m - rho1 n; SDS with one noise for ever at m + s^2 n / rho1, which is no datum."""
    mean, s, steer = (MEAN_H, S_H, Exact(TILT)) if tilted else (MEAN, S, None)
    n = noise("fixed")
    ends = {"cds": mean - RHO1 * n, "sds": mean + s**2 * n / RHO1}
    for mode, end in ends.items():
        x = views(torch.float64)
        slope = (
            s**2 * (RHO1 - RHO2) / ((s**2 + RHO1**2) * (s**2 + RHO2**2)) if mode == "cds" else RHO1 / (s**2 + RHO1**2)
        )
        for _ in range(20):  # down the gradient: the other sign would run away
            x = x - 0.8 / slope * VIEWS * distilled(x, mode, noise="fixed", steer=steer).gradient
        assert float((x - end).abs().max()) < 1e-11, mode


def test_several_views_average_their_rewards() -> None:
    """x seen through A_v, with a reward a_v each: it stops at m + H^-1 sum_v A_v^T (s^2 a_v / beta - rho1 n_v)."""
    g = torch.Generator().manual_seed(4)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    seen = [torch.linalg.qr(normal(D, D))[0][:4] for _ in range(VIEWS)]
    directions = [normal(4) for _ in range(VIEWS)]
    laws = [GaussianMixture(torch.ones(1).double(), (q @ MEAN)[None], torch.eye(4).double()[None] * S**2) for q in seen]
    path = PATHS["ve"]
    networks = [law.network(path) for law in laws]

    def network(x: Tensor, t: Tensor, view: Tensor) -> Tensor:
        rows = range(len(x))
        return torch.cat([networks[int(view[i])](x[i : i + 1], t[i : i + 1]) for i in rows])

    steer = [Exact(Quadratic(law, a / BETA)) for law, a in zip(laws, directions, strict=True)]
    n = noises.normal("fixed", SEED, 0, range(VIEWS), 1, (4,))[0]
    whole = sum((q.T @ q for q in seen), torch.zeros(D, D).double())
    pulled = sum(
        (q.T @ (S**2 * a / BETA - RHO1 * each) for q, a, each in zip(seen, directions, n, strict=True)),
        torch.zeros(D).double(),
    )
    x = MEAN + torch.linalg.solve(whole, pulled)
    got = steering.distill(
        network, torch.stack([q @ x for q in seen]), path=path, prediction="x0", iteration=0, seed=SEED, mode="cds",
        times=at(path, RHO1, RHO2), condition={"view": torch.arange(VIEWS)}, steer=steer, dtype=torch.float64,
    )  # fmt: skip
    back = sum((q.T @ each for q, each in zip(seen, got.gradient, strict=True)), torch.zeros(D).double())
    assert float(got.gradient.abs().max()) > 1e-3
    assert float(back.abs().max()) < 1e-12


def test_a_mixture_tilted_is_the_tilted_mixture() -> None:
    """Exact for any prior: the tilted gradient is that of the closed-form tilted law's own network."""
    law = GaussianMixture.random(D, 4, seed=3)
    tilt = Quadratic(law, A / BETA, 0.3 * EYE)
    x = views(torch.float64)
    for mode in ("sds", "cds", "ism"):
        one = distilled(x, mode, law=law, steer=Exact(tilt)).gradient
        other = distilled(x, mode, law=tilt.law).gradient
        assert float((one - other).abs().max()) < 1e-12, mode


def test_rescaling_moves_only_the_point_that_is_compared() -> None:
    """The reference's sum (rho1 / rho2) (e1' - e1) + e2 - e1', with e1' of the rescaled estimate."""
    g = torch.Generator().manual_seed(6)
    other = torch.randn(D, generator=g, dtype=torch.float64)
    path, w, x, n = PATHS["ve"], 4.0, views(torch.float64), noise("fixed")

    def network(x: Tensor, t: Tensor, on: Tensor) -> Tensor:
        mean = torch.where(on[:, None] > 0, MEAN, other)
        rho = path.sigma(t)[:, None]
        return (S**2 * x + rho**2 * mean) / (S**2 + rho**2)

    def eps(z: Tensor, rho: float) -> tuple[Tensor, Tensor]:
        t, on = torch.as_tensor(at(path, rho).t1).expand(VIEWS), torch.ones(VIEWS)
        null, conditional = network(z, t, 0 * on), network(z, t, on)
        guided = null + w * (conditional - null)
        ratio = conditional.std(dim=1, correction=0) / guided.std(dim=1, correction=0)
        rescaled = guided * (0.5 * ratio + 0.5)[:, None]
        return (z - guided) / rho, (z - rescaled) / rho

    z1 = x + RHO1 * n
    e1, r1 = eps(z1, RHO1)
    e2, _ = eps(z1 + (RHO2 - RHO1) * r1, RHO2)
    wanted = -(RHO1 / RHO2 * (r1 - e1) + e2 - r1)
    got = steering.distill(
        network, x, path=path, prediction="x0", iteration=ITERATION, seed=SEED, mode="cds", times=at(path, RHO1, RHO2),
        condition={"on": torch.ones(VIEWS)}, null={"on": torch.zeros(1)}, guidance=w, rescale=0.5, dtype=torch.float64,
    )  # fmt: skip
    assert float((VIEWS * got.gradient - wanted).abs().max()) < 1e-7  # it adds 1e-8 to standard deviations
    assert got.network_rows == 4 * VIEWS
