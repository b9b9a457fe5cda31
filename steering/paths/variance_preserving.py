"""Variance-preserving paths: alpha^2 + sigma^2 = 1 (Song et al. 2021, arXiv:2011.13456), cosine and linear."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.paths.base import Path, Time, float64, softplus
from steering.paths.decay import Decaying, LinearDecay


class VariancePreserving(Decaying):
    """sigma = sqrt(1 - alpha^2)."""

    def sigma(self, t: Time) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self.log_alpha(t).clamp(max=0)))  # alpha may round to above 1

    def sigma_dot(self, t: Time) -> Tensor:
        return -self.log_alpha_dot(t) * self.alpha(t) ** 2 / self.sigma(t)

    def log_snr(self, t: Time) -> Tensor:
        log_alpha = self.log_alpha(t).clamp(max=0)
        return log_alpha - 0.5 * torch.log(-torch.expm1(2 * log_alpha))

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        return self.time_of_log_alpha(-0.5 * softplus(-2 * float64(log_snr)))


@dataclass(frozen=True, kw_only=True)
class VPCosine(VariancePreserving):
    """The cosine schedule of Nichol & Dhariwal 2021 (arXiv:2102.09672, eq. 17), in continuous time.

    `t_max` stays below 1, where alpha is 0 and the drift infinite.
    """

    t_max: float = 0.9946
    offset: float = 0.008

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.t_max >= 1:
            raise ValueError(f"vp_cosine needs t_max < 1 (alpha is 0 at 1), got {self.t_max}")

    def _angle(self, t: Time) -> Tensor:
        return 0.5 * math.pi * (float64(t) + self.offset) / (1 + self.offset)

    @property
    def _cos_zero(self) -> float:
        return math.cos(0.5 * math.pi * self.offset / (1 + self.offset))

    def log_alpha(self, t: Time) -> Tensor:
        return torch.log(torch.cos(self._angle(t))) - math.log(self._cos_zero)

    def log_alpha_dot(self, t: Time) -> Tensor:
        return -torch.tan(self._angle(t)) * 0.5 * math.pi / (1 + self.offset)

    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        cosine = torch.exp(log_alpha) * self._cos_zero
        return torch.acos(cosine) * 2 * (1 + self.offset) / math.pi - self.offset


class VPLinear(LinearDecay, VariancePreserving):
    """The linear-beta schedule in continuous time (Song et al. 2021, eq. 33)."""


def vp_cosine(*, t_min: float = 1e-3, t_max: float = 0.9946, offset: float = 0.008) -> Path:
    """Cosine variance-preserving path."""
    return VPCosine(t_min=t_min, t_max=t_max, offset=offset)


def vp_linear(*, t_min: float = 1e-3, t_max: float = 1.0, beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
    """Linear-beta variance-preserving path."""
    return VPLinear(t_min=t_min, t_max=t_max, beta_min=beta_min, beta_max=beta_max)
