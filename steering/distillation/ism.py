"""Interval score matching (LucidDreamer, Liang et al. 2023, arXiv:2311.11284, eq. 13): x is inverted, no noise drawn.

x is taken to be at the model's cleanest level, and goes up its own trajectory under the null condition: by DDIM steps
to z2 at t2, and by one more to z1 at t1. The gradient is eps_w(z1) - eps_0(z2); without guidance that is how much the
flow's slope changes in between. A view takes two rows, and one for every `stride` steps, of Stable Diffusion's
thousand, on the way to t2.
"""

from collections.abc import Generator

import torch
from torch import Tensor

from steering.distillation.estimates import State, along
from steering.distillation.levels import Levels, known, span
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
    z, b = look.copies, len(counts)
    nodes = _nodes(look, counts)
    for k in range(int(counts.max())):
        active = (counts > k).nonzero().squeeze(1)
        here, there = nodes[active + k * b], nodes.rho[active + (k + 1) * b]
        call = min(k, INVERTED)
        estimate = yield from look.estimator(z[active], here, look.of[active], call, unconditional=True)
        z = z.index_copy(0, active, estimate.z + along(there - here.rho, estimate.z) * estimate.eps)
    second = yield from look.estimator(z, look.second, look.of, INVERTED + 1, unconditional=True)
    apart = along(look.first.rho - look.second.rho, z)
    first = yield from look.estimator(second.z + apart * second.eps, look.first, look.of, INVERTED + 2)
    return first.rescaled(look.rescale).eps - second.eps


def _nodes(look: Looked, counts: Tensor) -> Levels:
    """The views' nodes from the model's cleanest level to that of t2, [B] of number 0, then [B] of number 1, ...;
    a view that has fewer stays at its last."""
    plan = look.estimator.problem.plan
    within = span(plan.path)
    share = torch.stack([(k / counts.to(torch.float64)).clamp(max=1) for k in range(int(counts.max()) + 1)])
    cleanest = torch.exp(-within.log_snr(torch.full((1,), within.t_min, dtype=torch.float64)))
    first, last = step_of(cleanest, look.scale), step_of(look.second.rho, look.scale)
    log_snr = log_snr_of((first + (last - first) * share).flatten(), look.scale)
    t = within.time_of_log_snr(log_snr).clamp(within.t_min, within.t_max).reshape(share.shape)
    t = torch.where(share >= 1, look.second.t, torch.where(share <= 0, within.t_min, t))
    return Levels.of(plan, known(plan.path, t.flatten()))
