"""The Fokker-Planck residual of a score (Lai et al. 2023, arXiv:2210.04296; Deveney et al. 2023, 2311.15996).

The score of a law that follows dx = f x dt + g dw obeys R = 0,

    R = dS/dt + grad( f d + f x.S - g^2 / 2 (div S + |S|^2) )

so R tells how far the scores of different times belong to one law. Per unit of lambda = log(alpha / sigma), where
g^2 dt = -2 sigma^2 dlambda and kappa = d log alpha / dlambda,

    R = dS/dlambda + grad( kappa x.S + sigma^2 (div S + |S|^2) )

`residual` takes this at its word, in few dimensions. In many, grad div S costs too much; but where S is a gradient,
R = (alpha / sigma^2) r with

    r = dD/dlambda + (kappa x + 2 sigma^2 S).grad D + sigma^2 lap D

the drift of D along the time-reversed SDE: R = 0 says that D is a martingale there, as E[x_0 | x_t] has to be (Daras et
al. 2023, arXiv:2302.09057). The first two terms are one central difference along the SDE's own drift, the Laplacian is
E_v[v'(d^2 D/dx^2) v]. Where S is no gradient, `drift` sees that too: r then differs from R by terms in J - J'.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.diagnostics import field
from steering.numerics.noise import Noise
from steering.plans.plan import Node, nodes_at
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem


@dataclass(frozen=True)
class FokkerPlanck:
    """|R| per unit of lambda over |S|, each a root mean square over states: the share of the score in contradiction.

    `floor` is what a residual of zero would not exceed in 19 of 20 runs, from the spread over states.
    """

    t: float
    residual: float
    floor: float


def residual(problem: Problem, data: Tensor, noise: Noise, t: float) -> Generator[Rows, Tensor, FokkerPlanck]:
    """At noised states of the data: 4 d^2 + 2 d + 3 rows a state."""
    at = field.node_at(problem, t)
    x = field.noised(problem, data, noise, at)
    h = field.reach(problem, 4)
    before, after, kappa = _around(problem, at, h)
    d = x.shape[1]
    here = yield from field.score(problem, x[None], at)
    earlier = yield from field.score(problem, x[None], before)
    later = yield from field.score(problem, x[None], after)
    step = h * at.sigma
    shifts = step * torch.eye(d, dtype=torch.float64)[:, None]
    centres = torch.cat([x + shifts, x - shifts])
    grid = torch.cat([centres, *(centres + shift for shift in shifts), *(centres - shift for shift in shifts)])
    scores = yield from field.score(problem, grid, at)
    middle, *around = scores.reshape(2 * d + 1, 2 * d, len(x), d)
    divergence = sum(
        ((around[i] - around[d + i])[..., i] / (2 * step) for i in range(d)), torch.zeros_like(middle[..., 0])
    )
    potential = kappa * (centres * middle).sum(-1) + at.sigma**2 * (divergence + middle.square().sum(-1))
    gradient = ((potential[:d] - potential[d:]) / (2 * step)).T
    found = (later[0] - earlier[0]) / (2 * h) + gradient
    return _report(t, found.square().sum(-1), here[0].square().sum(-1))


def drift(
    problem: Problem, data: Tensor, noise: Noise, t: float, *, probes: int = 8
) -> Generator[Rows, Tensor, FokkerPlanck]:
    """At noised states of the data, by random probes: 2 probes + 3 rows a state.

    |r|^2 is the product of two estimates from half the probes each, so that their scatter adds nothing on average.
    """
    if probes < 2:
        raise ValueError(f"probes: expected 2 or more, for two estimates, got {probes}")
    at = field.node_at(problem, t)
    x = field.rounded(problem, field.noised(problem, data, noise, at)[None])
    h = field.reach(problem, 6)  # deep networks round more: on images in float32, r settles from h = 0.06 on
    before, after, kappa = _around(problem, at, h)
    here = yield from field.denoised(problem, x, t)
    score = (at.alpha * here - x) / at.sigma**2
    along = h * (kappa * x + 2 * at.sigma**2 * score)
    later = yield from field.denoised(problem, x + along, after.t)
    earlier = yield from field.denoised(problem, x - along, before.t)
    d = x.shape[2]
    v = h * at.sigma * field.directions(noise, d, probes)
    ahead, behind = (yield from field.denoised(problem, torch.cat([x + v, x - v]), t)).chunk(2)
    curvature = (ahead - 2 * here + behind) / h**2
    straight = (later - earlier)[0] / (2 * h)
    if d <= probes:
        first = second = straight + curvature.sum(0)
    else:
        first, second = (straight + half.mean(0) for half in (curvature[::2], curvature[1::2]))
    scale = (at.alpha / at.sigma**2) ** 2
    return _report(t, scale * (first * second).sum(-1), score[0].square().sum(-1))


def _around(problem: Problem, at: Node, h: float) -> tuple[Node, Node, float]:
    """The nodes at lambda - h and lambda + h, and d log alpha / dlambda."""
    path = problem.plan.path
    times = path.time_of_log_snr(torch.tensor([at.log_snr - h, at.log_snr + h], dtype=torch.float64))
    before, after = nodes_at(path, times)
    return before, after, math.log(after.alpha / before.alpha) / (after.log_snr - before.log_snr)


def _report(t: float, squares: Float64[Tensor, " n"], whole: Float64[Tensor, " n"]) -> FokkerPlanck:
    relative = squares / whole.mean()
    spread = float(relative.std()) / math.sqrt(len(relative))
    return FokkerPlanck(t, math.sqrt(max(float(relative.mean()), 0.0)), math.sqrt(1.645 * spread))
