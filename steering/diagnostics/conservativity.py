"""Is the score a gradient? Jacobians of gradients are symmetric, and their integrals along closed curves vanish.

A network's output need be no gradient of anything (Vuong et al. 2025, arXiv:2509.00336), nor does that always harm its
samples, see `gauge`. With J = dS/dx by central differences,

    asymmetry    |J - J'|_F / |J|_F,   E (v'J w - w'J v)^2 = |J - J'|_F^2 for independent v, w with E[v v'] = 1
    circulation  the integral of S . dx around a random circle: how much log p changes on the way back to where it was

k probes take 2 k rows for k (k - 1) / 2 pairs of them; where d is at most k, J itself is taken.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.diagnostics import field
from steering.numerics.noise import START, Draw, Noise
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem


@dataclass(frozen=True)
class Asymmetry:
    """|J - J'|_F / |J|_F, root mean square over states.

    Attributes:
        score: of the score's J. Its part -1 / sigma^2, which any network gets right, is symmetric and large.
        denoiser: of the Jacobian of D, which holds what was learnt; the same J - J' over a smaller J.
        error: standard error of `score` over states; NaN for one state.
    """

    t: float
    score: float
    denoiser: float
    error: float


@dataclass(frozen=True)
class Loops:
    """Integrals around circles, over states.

    Attributes:
        circulation: root mean square of the integral of S . dx, in nats.
        share: of the integral of |S . dx|, what does not cancel on the way round: 0 for a gradient, 1 for a rotation.
    """

    t: float
    circulation: float
    share: float


def asymmetry(
    problem: Problem, data: Tensor, noise: Noise, t: float, *, probes: int = 8
) -> Generator[Rows, Tensor, Asymmetry]:
    """At noised states of the data, by `probes` random directions in each; 2 probes rows a state."""
    if probes < 2:
        raise ValueError(f"probes: expected 2 or more, which make a pair, got {probes}")
    at = field.node_at(problem, t)
    x = field.noised(problem, data, noise, at)
    n, d = x.shape
    v = field.directions(noise, d, probes)
    step = field.reach(problem, 3) * at.sigma
    ends = yield from field.score(problem, torch.cat([x + step * v, x - step * v]), at)
    ahead, behind = ends.chunk(2)
    slopes = (ahead - behind) / (2 * step)
    denoised = (v + at.sigma**2 * slopes) / at.alpha
    products = torch.einsum("ind,jnd->nij", v, slopes)
    k = len(v)
    pairs, each = (1, 1) if d <= probes else (k * (k - 1), k)
    odd = (products - products.mT).square().sum((1, 2)) / pairs
    even = slopes.square().sum((0, 2)) / each
    ratio = math.sqrt(float(odd.mean() / even.mean()))
    # of the ratio of two means, to first order
    spread = float((odd / even.mean() - ratio**2 * even / even.mean()).std()) / math.sqrt(n)
    return Asymmetry(
        t=t,
        score=ratio,
        denoiser=math.sqrt(
            float(odd.mean() * (at.sigma**2 / at.alpha) ** 2 / (denoised.square().sum((0, 2)) / each).mean())
        ),
        error=spread / (2 * ratio) if ratio > 0 else spread,
    )


def loops(
    problem: Problem, data: Tensor, noise: Noise, t: float, *, radius: float = 0.5, points: int = 16
) -> Generator[Rows, Tensor, Loops]:
    """A circle around each noised state, in a random plane; `points` rows a state.

    Args:
        radius: over sigma sqrt(d), the length of the noise.
        points: of the trapezoidal rule, whose error falls exponentially with them.
    """
    at = field.node_at(problem, t)
    x = field.noised(problem, data, noise, at)
    plane = _plane(noise, x.shape[1])
    angles = torch.arange(points, dtype=torch.float64) * (2 * math.pi / points)
    cos, sin = torch.cos(angles)[:, None, None], torch.sin(angles)[:, None, None]
    length = radius * at.sigma * math.sqrt(x.shape[1])
    found = yield from field.score(problem, x + length * (cos * plane[0] + sin * plane[1]), at)
    tangents = cos * plane[1] - sin * plane[0]
    work = (found * tangents).sum(-1) * (2 * math.pi * length / points)
    circulation = float(work.sum(0).square().mean().sqrt())
    whole = float(work.abs().sum(0).square().mean().sqrt())
    return Loops(t, circulation, circulation / whole if whole > 0 else 0.0)


def _plane(noise: Noise, d: int) -> Float64[Tensor, "2 n d"]:
    """Two orthonormal vectors for each sample."""
    if d < 2:
        raise ValueError(f"event: expected 2 or more elements, in which there are circles, got {d}")
    first, second = noise.normal(START, Draw.PROBES, (2, d)).unbind(1)
    first = first / first.norm(dim=1, keepdim=True)
    second = second - (first * second).sum(-1, keepdim=True) * first
    return torch.stack([first, second / second.norm(dim=1, keepdim=True)])
