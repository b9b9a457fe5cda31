"""The sub-variance-preserving path (Song et al. 2021, arXiv:2011.13456, eq. 29), made for likelihoods."""

import torch
from torch import Tensor

from steering.paths.base import Path, Time, float64
from steering.paths.decay import LinearDecay


class SubVP(LinearDecay):
    """alpha of the linear-beta path, sigma = 1 - alpha^2 (the standard deviation, not the variance)."""

    def sigma(self, t: Time) -> Tensor:
        return -torch.expm1(2 * self.log_alpha(t))

    def sigma_dot(self, t: Time) -> Tensor:
        return -2 * self.log_alpha_dot(t) * self.alpha(t) ** 2

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        # rho = (1 - alpha^2) / alpha = 2 sinh(-log alpha)
        return self.time_of_log_alpha(-torch.asinh(0.5 * torch.exp(-float64(log_snr))))


def sub_vp(*, t_min: float = 1e-3, t_max: float = 1.0, beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
    """Sub-variance-preserving path with linear beta."""
    return SubVP(t_min=t_min, t_max=t_max, beta_min=beta_min, beta_max=beta_max)
