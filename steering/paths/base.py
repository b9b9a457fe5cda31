"""The interface of Gaussian probability paths x_t = alpha(t) x_0 + sigma(t) eps."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

Time = float | Tensor


def float64(t: Time) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x). Torch's own, and its sigmoid, round an element by its place in the tensor."""
    return torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class Path(ABC):
    """A Gaussian path; `t_min` and `t_max` bound the times a sampler may visit, both included."""

    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.t_min < self.t_max:
            raise ValueError(f"a path needs 0 <= t_min < t_max, got t_min={self.t_min}, t_max={self.t_max}")

    @abstractmethod
    def alpha(self, t: Time) -> Tensor:
        """Scale of the data at t."""

    @abstractmethod
    def sigma(self, t: Time) -> Tensor:
        """Scale of the noise at t."""

    @abstractmethod
    def alpha_dot(self, t: Time) -> Tensor:
        """d alpha / dt."""

    @abstractmethod
    def sigma_dot(self, t: Time) -> Tensor:
        """d sigma / dt."""

    @abstractmethod
    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        """The time t at which `log_snr(t)` has the given value."""

    def log_snr(self, t: Time) -> Tensor:
        """lambda(t) = log(alpha / sigma), half the logarithm of the signal-to-noise ratio of DPM-Solver's papers."""
        return torch.log(self.alpha(t)) - torch.log(self.sigma(t))

    def between(self, t_min: float, t_max: float) -> Self:
        """The same path, sampled between other times."""
        return replace(self, t_min=float(t_min), t_max=float(t_max))

    def spanning(self, first: float, last: float) -> Self:
        """The same path, sampled from log-SNR `first` (noise) to `last` (data)."""
        return self.between(float(self.time_of_log_snr(last)), float(self.time_of_log_snr(first)))
