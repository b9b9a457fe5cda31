"""One-sided stochastic interpolants alpha(t) x_0 + sigma(t) z (Albergo et al. 2023, arXiv:2303.08797, section 3.2).

Two of the usual pairs of coefficients are the rectified and the trig flow; the third is here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.errors import choose
from steering.paths.base import Path, Time, float64, softplus
from steering.paths.flows import Flow, RectifiedFlow, TrigFlow


@dataclass(frozen=True, kw_only=True)
class SBDM(Flow):
    """alpha = 1 - t, sigma = sqrt(1 - alpha^2): score-based diffusion, with time such that alpha is linear."""

    def alpha(self, t: Time) -> Tensor:
        return 1 - float64(t)

    def sigma(self, t: Time) -> Tensor:
        t = float64(t)
        return torch.sqrt(t * (2 - t))

    def alpha_dot(self, t: Time) -> Tensor:
        return -torch.ones_like(float64(t))

    def sigma_dot(self, t: Time) -> Tensor:
        return self.alpha(t) / self.sigma(t)

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        # 1 - t = alpha = 1 / sqrt(1 + rho^2)
        return -torch.expm1(-0.5 * softplus(-2 * float64(log_snr)))


COEFFICIENTS: Mapping[str, type[RectifiedFlow | TrigFlow | SBDM]] = {
    "linear": RectifiedFlow,
    "trigonometric": TrigFlow,
    "sbdm": SBDM,
}


def one_sided(*, coefficients: str = "linear", t_min: float = 1e-3, t_max: float = 1 - 1e-3) -> Path:
    """The interpolant with these coefficients: "linear", "trigonometric" or "sbdm"."""
    if coefficients not in COEFFICIENTS:
        raise ValueError(choose("coefficients", coefficients, COEFFICIENTS))
    return COEFFICIENTS[coefficients](t_min=t_min, t_max=t_max)
