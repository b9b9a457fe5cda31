"""Interval score matching (LucidDreamer, Liang et al. 2023, arXiv:2311.11284, eq. 13): x is inverted, no noise drawn.

x goes up its own trajectory under the null condition, by DDIM steps from the model's cleanest level to z2 at t2, and by
one more to z1 at t1: gradient = eps_w(z1) - eps_0(z2). Without guidance it is the difference of the flow's slope at two
levels. A view takes two rows and one for every `stride` steps, of Stable Diffusion's thousand, on the way to t2.
"""

from collections.abc import Generator

import torch
from torch import Tensor

from steering.distillation.estimates import State, along
from steering.distillation.levels import Levels, known
from steering.distillation.mode import Looked
from steering.distillation.schedules import log_snr_of, step_of
from steering.sampling.rows import Rows

INVERTED = 8
"""The number of the last inversion's call that has one of its own; later ones share it."""


def inversions(rho2: Tensor, stride: float, scale: float) -> Tensor:
    """DDIM steps to noise levels rho2 [B], at least 1."""
    return torch.ceil((step_of(rho2, scale) + 1) / stride - 1e-9).clamp(min=1).to(torch.int64)


def direction(look: Looked) -> Generator[Rows, Tensor, State]:
    """eps_w(z1) - eps_0(z2)."""
    counts = inversions(look.second.rho, look.stride, look.scale)
    z = look.copies
    for k in range(int(counts.max())):
        active = (counts > k).nonzero().squeeze(1)
        here, there = (_node(look, counts, active, each) for each in (k, k + 1))
        call = min(k, INVERTED)
        estimate = yield from look.estimator(z[active], here, look.of[active], call, unconditional=True)
        step = there.rho - here.rho if k else there.rho  # x itself is taken to be without noise
        z = z.index_copy(0, active, estimate.z + along(step, estimate.z) * estimate.eps)
    second = yield from look.estimator(z, look.second, look.of, INVERTED + 1, unconditional=True)
    apart = along(look.first.rho - look.second.rho, z)
    first = yield from look.estimator(second.z + apart * second.eps, look.first, look.of, INVERTED + 2)
    return first.rescaled(look.rescale).eps - second.eps


def _node(look: Looked, counts: Tensor, active: Tensor, k: int) -> Levels:
    """Node k of the active views, on the way from the model's cleanest level to that of t2."""
    path = look.estimator.problem.plan.path.finite
    share = k / counts[active].to(torch.float64)
    first = step_of(torch.exp(-path.log_snr(torch.full_like(share, path.t_min))), look.scale)
    last = step_of(look.second.rho[active], look.scale)
    between = path.time_of_log_snr(log_snr_of(first + (last - first) * share, look.scale))
    t = torch.where(share >= 1, look.second.t[active], between.clamp(path.t_min, path.t_max))
    return Levels.of(path, known(path, torch.where(share <= 0, path.t_min, t), "t"))
