"""Consistency distillation sampling (Consistent3D, Wu et al. 2024, arXiv:2401.09050): two adjacent points of one
deterministic trajectory, with one noise for a whole optimisation.

    z1 = x + rho1 n,    z2 = z1 + (rho2 - rho1) eps_w(z1),    rho2 < rho1,
    gradient = (D(z2) - D(z1)) / rho2 = eps_w(z1) - eps_w(z2).

The sign is a trap: differentiating |D(z1) - D(z2)|^2 / 2 with D(z2) held and the identity for dD/dx gives the opposite,
and diverges. For a Gaussian prior N(m, s^2) this one is

    (x - m + rho1 n) s^2 (rho1 - rho2) / ((s^2 + rho1^2) (s^2 + rho2^2)),

which leads to m - rho1 n: off by the noise of the level, so levels must fall. Signal to noise is 1 / rho1, where that
of `sds` is rho1 / s^2: it is the better of the two below the prior's width.

Where the first estimate is rescaled, z2 is made of the rescaled one and D(z1) is not, as in the published code.
"""

from collections.abc import Generator

from torch import Tensor

from steering.distillation.estimates import State, along
from steering.distillation.mode import Looked, mean_of
from steering.sampling.rows import Rows


def direction(look: Looked) -> Generator[Rows, Tensor, State]:
    """eps_w(z1) - eps_w(z2), averaged over the noises of a view."""
    rho1, rho2 = (along(level.rho, look.copies) for level in (look.first, look.second))
    z1 = look.copies + rho1 * look.noise
    first = yield from look.estimator(z1, look.first, look.of, 0)
    step = first.rescaled(look.rescale).eps
    second = yield from look.estimator(first.z + (rho2 - rho1) * step, look.second, look.of, 1)
    if not look.rescale:  # the same, with less rounding
        return mean_of(first.eps - second.eps, look.noises)
    return mean_of((second.denoised - first.denoised) / rho2, look.noises)
