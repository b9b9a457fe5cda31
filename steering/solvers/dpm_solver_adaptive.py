"""DPM-Solver-12 and -23: adaptive steps in log-SNR (Lu et al. 2022, arXiv:2206.00927, appendix C).

    DPM-Solver-1    x_t = (alpha_t / alpha_s) x_s - sigma_t (e^h - 1) eps_s
    DPM-Solver-2    ... - sigma_t (e^h - 1) / (2 r_1) (eps_u - eps_s)
    DPM-Solver-3    ... - sigma_t ((e^h - 1) / h - 1) / r_2 (eps_v - eps_s),   r_2 = 2/3, instead

with x_u a step of order 1 to r_1 h, and x_v that step to r_2 h plus the same correction by r_2 / r_1 (eps_u - eps_s).
DPM-Solver-12 compares orders 1 and 2 (r_1 = 1/2), DPM-Solver-23 orders 2 and 3 (r_1 = 1/3), which share their rows;
eps_s stays when a step is tried again. The paper scales the error by the lower-order states, here the higher.
"""

from collections.abc import Generator

import torch
from torch import Tensor

from steering.plans.plan import Solver
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem
from steering.solvers import adaptive
from steering.solvers.adaptive import Times, Trial
from steering.solvers.levels import NoiseLevel, along


def step_1(y: Tensor, eps: Tensor, s: Times, t: Times) -> Tensor:
    """DPM-Solver-1 from log-SNRs s to t."""
    carry = NoiseLevel(t).alpha / NoiseLevel(s).alpha
    return along(carry, y) * y - along(NoiseLevel(t).sigma * torch.expm1(t - s), y) * eps


def step_2(y: Tensor, eps: Tensor, s: Times, t: Times, difference: Tensor, r1: float) -> Tensor:
    """DPM-Solver-2, with the difference eps_u - eps_s."""
    return step_1(y, eps, s, t) - along(NoiseLevel(t).sigma * torch.expm1(t - s) / (2 * r1), y) * difference


def step_3(y: Tensor, eps: Tensor, s: Times, t: Times, difference: Tensor, r: float) -> Tensor:
    """DPM-Solver-3 with the difference eps_v - eps_s, or the step to its v with (r_2 / r_1) (eps_u - eps_s), r = 1."""
    h = t - s
    return step_1(y, eps, s, t) - along(NoiseLevel(t).sigma * (torch.expm1(h) / h - 1) / r, y) * difference


def eps(problem: Problem, log_snr: Times, y: Tensor) -> Generator[Rows, Tensor, Tensor]:
    return NoiseLevel(log_snr).eps(problem, y)


def attempt_12(problem: Problem, y: Tensor, eps_s: Tensor, s: Times, t: Times) -> Generator[Rows, Tensor, Trial]:
    u = s + (t - s) / 2
    eps_u = yield from eps(problem, u, step_1(y, eps_s, s, u))
    after = step_2(y, eps_s, s, t, eps_u - eps_s, 1 / 2)
    return after, after - step_1(y, eps_s, s, t), None


def attempt_23(problem: Problem, y: Tensor, eps_s: Tensor, s: Times, t: Times) -> Generator[Rows, Tensor, Trial]:
    u, v = s + (t - s) / 3, s + (t - s) * 2 / 3
    eps_u = yield from eps(problem, u, step_1(y, eps_s, s, u))
    eps_v = yield from eps(problem, v, step_3(y, eps_s, s, v, 2 * (eps_u - eps_s), 1.0))
    after = step_3(y, eps_s, s, t, eps_v - eps_s, 2 / 3)
    return after, after - step_2(y, eps_s, s, t, eps_u - eps_s, 1 / 3), None


def tau(log_snr: Tensor) -> Times:
    return log_snr


PAIR_12 = adaptive.Pair(2, 1, tau, NoiseLevel, eps, attempt_12)
PAIR_23 = adaptive.Pair(3, 2, tau, NoiseLevel, eps, attempt_23)

SOLVERS = tuple(
    Solver(
        name=name,
        order=pair.order,
        rows_per_step=pair.order,
        reference="Lu et al. 2022, arXiv:2206.00927, appendix C",
        default_grid="logsnr",
        direct=pair.draw,
        options=adaptive.options(rtol=0.05, atol=0.0078),
    )
    for name, pair in (("dpm_solver_12", PAIR_12), ("dpm_solver_23", PAIR_23))
)
