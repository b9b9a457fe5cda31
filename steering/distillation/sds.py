"""Score distillation sampling (Poole et al. 2022, arXiv:2209.14988): eps_w(z) - n at z = x + rho1 n.

For a Gaussian prior N(m, s^2): (rho1 (x - m) - s^2 n) / (s^2 + rho1^2). The signal is rho1 (x - m), the noise s^2 n; so
the levels matter that are not far below the prior's width, and new noise is drawn at every iteration. With one noise
throughout it would lead to m + s^2 n / rho1, which is no datum.
"""

from collections.abc import Generator

from torch import Tensor

from steering.distillation.estimates import State, along
from steering.distillation.mode import Looked, mean_of
from steering.sampling.rows import Rows


def direction(look: Looked) -> Generator[Rows, Tensor, State]:
    """eps_w(x + rho1 n) - n, averaged over the noises of a view."""
    z = look.copies + along(look.first.rho, look.copies) * look.noise
    estimate = (yield from look.estimator(z, look.first, look.of, 0)).rescaled(look.rescale)
    return mean_of(estimate.eps - look.noise, look.noises)
