"""Gradients on a Gaussian prior beside their closed forms."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from steering import paths
from steering.distillation import Settings, Times, gradient, noises, prior
from steering.problems import Exact, GaussianMixture, Quadratic
from steering.sampling.run import solve
from steering.sampling.sampler import Problem

DIMENSIONS, VIEWS, WIDTH, BETA, CURVATURE = 8, 4, 0.7, 0.8, 1.3
RHO1, RHO2 = 0.9, 0.6
PATHS = {
    "ve": paths.ve(sigma_min=0.02, sigma_max=80.0),
    "vp_cosine": paths.vp_cosine(),
    "vp_betas": paths.vp_betas(),
    "rectified_flow": paths.rectified_flow(),
}


def cds(x: Tensor, n: Tensor, mean: Tensor, s: float) -> Tensor:
    return (x - mean + RHO1 * n) * s**2 * (RHO1 - RHO2) / ((s**2 + RHO1**2) * (s**2 + RHO2**2))


def sds(x: Tensor, n: Tensor, mean: Tensor, s: float) -> Tensor:
    return (RHO1 * (x - mean) - s**2 * n) / (s**2 + RHO1**2)


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {"sds": sds, "cds": cds}


def table() -> float:
    """Prints the largest differences to the closed forms; returns the largest of those in float64."""
    g = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    mean, slope = normal(DIMENSIONS), normal(DIMENSIONS)
    one = torch.eye(DIMENSIONS, dtype=torch.float64)
    law = GaussianMixture(torch.ones(1, dtype=torch.float64), mean[None], one[None] * WIDTH**2)
    tilt = Quadratic(law, slope / BETA, one * CURVATURE / BETA)
    s_h = math.sqrt(1 / (1 / WIDTH**2 + CURVATURE / BETA))
    goals = {"plain": (mean, WIDTH), "tilted": (s_h**2 * (mean / WIDTH**2 + slope / BETA), s_h)}
    views = normal(VIEWS, DIMENSIONS)
    print("\nGradients on a Gaussian beside their closed forms, signs included: the largest difference")
    print(f"{'':26}{'float32':>10}{'float64':>10}")
    worst = 0.0
    for mode, form in FORMS.items():
        for which, (goal, width) in goals.items():
            for name, path in PATHS.items():
                t = path.time_of_log_snr(-torch.log(torch.tensor([RHO1, RHO2], dtype=torch.float64)))
                errors = []
                for dtype in (torch.float32, torch.float64):
                    x = views.to(dtype)
                    problem = Problem(plan=prior(path, "x0"), event=(DIMENSIONS,), dtype=dtype)
                    settings = Settings(mode=mode, times=Times(t[0], t[1]), noise="fixed")
                    steer = Exact(tilt) if which == "tilted" else None
                    got = solve(gradient(problem, x, settings, iteration=0, seed=1, steer=steer), law.network(path))
                    n = noises.normal("fixed", 1, 0, range(VIEWS), 1, (DIMENSIONS,))[0]
                    wanted = form(x.double(), n, goal, width)
                    errors.append(float((VIEWS * got.gradient.double() - wanted).abs().max()))
                worst = max(worst, errors[1])
                print(f"{mode} {which:7} {name:14}{errors[0]:10.1e}{errors[1]:10.1e}", flush=True)
    return worst
