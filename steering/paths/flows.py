"""Paths of flow matching: straight lines from data to noise, and the quarter circle."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.paths.base import Path, Time, float64


@dataclass(frozen=True, kw_only=True)
class Flow(Path):
    """Data at exactly 0, noise at exactly 1; both are kept off, for the log-SNR there is infinite."""

    t_max: float = 1 - 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.t_max > 1:
            raise ValueError(f"a flow needs t_max <= 1, got {self.t_max}")


@dataclass(frozen=True, kw_only=True)
class RectifiedFlow(Flow):
    """alpha = 1 - s, sigma = s, s = k t / (1 + (k - 1) t): straight lines (Liu et al. 2022, arXiv:2209.03003).

    The shift k multiplies rho: sqrt(m / n) of it hides as much of an image of m pixels as of one of n pixels unshifted
    (Esser et al. 2024, arXiv:2403.03206, eq. 23).
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift: expected a number > 0, got {self.shift}")

    def alpha(self, t: Time) -> Tensor:
        t = float64(t)
        return (1 - t) / (1 + (self.shift - 1) * t)

    def sigma(self, t: Time) -> Tensor:
        t = float64(t)
        return self.shift * t / (1 + (self.shift - 1) * t)

    def alpha_dot(self, t: Time) -> Tensor:
        return -self.sigma_dot(t)

    def sigma_dot(self, t: Time) -> Tensor:
        return self.shift / (1 + (self.shift - 1) * float64(t)) ** 2

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        return 1 / (1 + self.shift * torch.exp(float64(log_snr)))


@dataclass(frozen=True, kw_only=True)
class TrigFlow(Flow):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2) (Albergo & Vanden-Eijnden 2023, arXiv:2209.15571)."""

    def alpha(self, t: Time) -> Tensor:
        return torch.cos(0.5 * math.pi * float64(t))

    def sigma(self, t: Time) -> Tensor:
        return torch.sin(0.5 * math.pi * float64(t))

    def alpha_dot(self, t: Time) -> Tensor:
        return -0.5 * math.pi * self.sigma(t)

    def sigma_dot(self, t: Time) -> Tensor:
        return 0.5 * math.pi * self.alpha(t)

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        return torch.atan(torch.exp(-float64(log_snr))) * (2 / math.pi)


def rectified_flow(*, t_min: float = 1e-3, t_max: float = 1 - 1e-3, shift: float = 1.0) -> Path:
    """Linear interpolation. `shift` is for networks whose own time is shifted.

    One trained unshifted is sampled with the grid "shifted(k)", or on a shifted path with `trained` its own.
    """
    return RectifiedFlow(t_min=t_min, t_max=t_max, shift=shift)


def trig_flow(*, t_min: float = 1e-3, t_max: float = 1 - 1e-3) -> Path:
    """Quarter circle; the velocity is pi / 2 times what a "v" network says."""
    return TrigFlow(t_min=t_min, t_max=t_max)
