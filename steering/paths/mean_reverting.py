"""Mean-reverting diffusion (Luo et al. 2023, arXiv:2301.11699; MRS, Li et al. 2025, arXiv:2502.07856).

    dx = theta(t) (mu - x) dt + sqrt(2 theta(t)) sigma_inf dw

reverts to mu, a tensor that every sample has for itself (a degraded image). The difference y = x - mu obeys

    y_t = alpha y_0 + sigma eps,   alpha = exp(-int_0^t theta),   sigma = sigma_inf sqrt(1 - alpha^2)

which is the path here; the sampler shifts by mu (`steering.run(..., mean=mu)`), so every solver works as it is.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.paths.base import Path, Time, float64, softplus
from steering.paths.decay import LinearDecay


@dataclass(frozen=True, kw_only=True)
class MeanReverting(LinearDecay):
    """theta = beta / 2, linear in t."""

    sigma_inf: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_inf < math.inf:
            raise ValueError(f"sigma_inf: expected a number > 0, got {self.sigma_inf}")

    def sigma(self, t: Time) -> Tensor:
        return self.sigma_inf * torch.sqrt(-torch.expm1(2 * self.log_alpha(t)))

    def sigma_dot(self, t: Time) -> Tensor:
        return -self.log_alpha_dot(t) * (self.sigma_inf * self.alpha(t)) ** 2 / self.sigma(t)

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        preserving = float64(log_snr) + math.log(self.sigma_inf)
        return self.time_of_log_alpha(-0.5 * softplus(-2 * preserving))


def mean_reverting(
    *, theta_min: float = 0.05, theta_max: float = 10.0, sigma_inf: float = 1.0, t_min: float = 1e-3, t_max: float = 1.0
) -> Path:
    """theta from theta_min at t = 0 to theta_max at 1, or constant where they are equal; `sigma_inf`: noise at rest."""
    if not 0 <= theta_min <= theta_max or theta_max == 0:
        raise ValueError(
            f"expected 0 <= theta_min <= theta_max, some of it above 0, got theta_min={theta_min}, "
            f"theta_max={theta_max}"
        )
    return MeanReverting(beta_min=2 * theta_min, beta_max=2 * theta_max, sigma_inf=sigma_inf, t_min=t_min, t_max=t_max)
