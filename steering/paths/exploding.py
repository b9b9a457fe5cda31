"""Variance-exploding paths: alpha = 1, the noise level alone grows."""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from steering.paths.base import Path, Time, float64


class VarianceExploding(Path):
    """alpha = 1."""

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(float64(t))

    def alpha_dot(self, t: Time) -> Tensor:
        return torch.zeros_like(float64(t))


@dataclass(frozen=True, kw_only=True)
class EDM(VarianceExploding):
    """sigma(t) = t: time is the noise level (Karras et al. 2022, arXiv:2206.00364)."""

    def sigma(self, t: Time) -> Tensor:
        return float64(t).clone()

    def sigma_dot(self, t: Time) -> Tensor:
        return torch.ones_like(float64(t))

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        return torch.exp(-float64(log_snr))


@dataclass(frozen=True, kw_only=True)
class VE(VarianceExploding):
    """sigma(t) = sigma_min (sigma_max / sigma_min)^t for t in [0, 1] (Song et al. 2021, eq. 31)."""

    t_min: float = 0.0
    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def sigma(self, t: Time) -> Tensor:
        # not a power of t: torch rounds those of a few elements otherwise than those of many
        return self.sigma_min * torch.exp(float64(t) * math.log(self.sigma_max / self.sigma_min))

    def sigma_dot(self, t: Time) -> Tensor:
        return self.sigma(t) * math.log(self.sigma_max / self.sigma_min)

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        return (-float64(log_snr) - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)

    def spanning(self, first: float, last: float) -> Self:
        """The levels move, the times stay 0 and 1: below sigma_min time would be negative."""
        return replace(self, t_min=0.0, t_max=1.0, sigma_min=math.exp(-last), sigma_max=math.exp(-first))


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Path:
    """Geometric variance-exploding path, t in [0, 1]."""
    _check_sigmas(sigma_min, sigma_max)
    return VE(sigma_min=sigma_min, sigma_max=sigma_max)


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Path:
    """EDM's path: time is the noise level, from sigma_max down to sigma_min."""
    _check_sigmas(sigma_min, sigma_max)
    return EDM(t_min=sigma_min, t_max=sigma_max)


def _check_sigmas(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"expected 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
