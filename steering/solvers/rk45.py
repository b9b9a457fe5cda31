"""Dormand & Prince's pair of orders 5 and 4 on the probability flow, with adaptive steps.

    dy/dtau = v(y, tau) = (cos(tau) y - D) / sin(tau),   tau = arctan(sigma / alpha),   y = x / sqrt(alpha^2 + sigma^2)

The pair: J. R. Dormand & P. J. Prince 1980, J. Comput. Appl. Math. 6. Sampling with it: Song et al. 2021
(arXiv:2011.13456, appendix D.4), there in x and t with one step for a whole batch. In the angle tau (TrigFlow, Lu &
Song 2024, arXiv:2410.11081) slope and range are bounded, and the same accuracy takes half to a third of the rows it
takes in rho or log-SNR. The last slope of a step is the first of the next.
"""

from collections.abc import Generator

import torch
from torch import Tensor

from steering.numerics.dormand_prince import ERROR, A, C
from steering.plans.plan import Solver
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem
from steering.solvers import adaptive
from steering.solvers.adaptive import Times, Trial
from steering.solvers.levels import NoiseLevel, along


def tau(log_snr: Tensor) -> Times:
    return torch.atan(torch.exp(-log_snr))


def level(tau: Times) -> NoiseLevel:
    return NoiseLevel(-torch.log(torch.tan(tau)))


def slope(problem: Problem, tau: Times, y: Tensor) -> Generator[Rows, Tensor, Tensor]:
    denoised = yield from level(tau).denoised(problem, y)
    return (along(torch.cos(tau), y) * y - denoised) / along(torch.sin(tau), y)


def attempt(problem: Problem, y: Tensor, first: Tensor, s: Times, t: Times) -> Generator[Rows, Tensor, Trial]:
    slopes, after = [first], y
    for c, row in zip(C, A, strict=True):
        after = y + along(t - s, y) * _weighted(row, slopes)
        slopes.append((yield from slope(problem, t if c == 1 else s + c * (t - s), after)))
    return after, along(t - s, y) * _weighted(ERROR, slopes), slopes[-1]


def _weighted(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    first, *rest = [slope * weight for weight, slope in zip(weights, slopes, strict=True) if weight]
    return sum(rest, first)


PAIR = adaptive.Pair(5, len(C), tau, level, slope, attempt)
SOLVER = Solver(
    name="rk45",
    order=5,
    rows_per_step=len(C),
    reference="Song et al. 2021, arXiv:2011.13456, appendix D.4; Dormand & Prince 1980",
    default_grid="uniform",
    direct=PAIR.draw,
    options=adaptive.options(rtol=1e-5, atol=1e-5),
)
