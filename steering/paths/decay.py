"""Paths whose data scale is given by its logarithm, which keeps the digits of 1 - alpha near the data."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.paths.base import Path, Time, float64


class Decaying(Path):
    """alpha = exp(log_alpha), falling from 1."""

    @abstractmethod
    def log_alpha(self, t: Time) -> Tensor: ...

    @abstractmethod
    def log_alpha_dot(self, t: Time) -> Tensor: ...

    @abstractmethod
    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor: ...

    def alpha(self, t: Time) -> Tensor:
        return torch.exp(self.log_alpha(t))

    def alpha_dot(self, t: Time) -> Tensor:
        return self.log_alpha_dot(t) * self.alpha(t)


@dataclass(frozen=True, kw_only=True)
class LinearDecay(Decaying):
    """d log alpha / dt = -beta(t) / 2 with beta from beta_min at 0 to beta_max at 1 (Song et al. 2021, eq. 33)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta_min <= self.beta_max or self.beta_max == 0:
            raise ValueError(
                f"expected 0 <= beta_min <= beta_max, some of it above 0, got beta_min={self.beta_min}, "
                f"beta_max={self.beta_max}"
            )

    def log_alpha(self, t: Time) -> Tensor:
        t = float64(t)
        return -0.25 * (self.beta_max - self.beta_min) * t**2 - 0.5 * self.beta_min * t

    def log_alpha_dot(self, t: Time) -> Tensor:
        return -0.5 * ((self.beta_max - self.beta_min) * float64(t) + self.beta_min)

    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        q = -4 * log_alpha
        return q / (torch.sqrt(self.beta_min**2 + (self.beta_max - self.beta_min) * q) + self.beta_min)
