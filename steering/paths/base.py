"""The interface of Gaussian probability paths x_t = alpha(t) x_0 + sigma(t) eps."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

Time = float | Tensor

NOTHING = 3e-8
"""A share of noise in the data, or of data in the noise, that no float32 state shows: as good as 0."""
NOISIEST, CLEANEST = -math.log(80.0), -math.log(0.002)
"""The log-SNRs of EDM's levels 80 and .002 (Karras et al. 2022, table 1): what stands in for an infinite log-SNR."""
APART = 5.0
"""Log-SNR from one end of a range to the other, at least, where one of them was replaced."""


def float64(t: Time) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x). Torch's own, and its sigmoid, round an element by its place in the tensor."""
    return torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class Path(ABC):
    """A Gaussian path; `t_min` and `t_max` bound the times a sampler may visit, both included.

    Attributes:
        whole: the time input (see `paths.time_input`) of which the path's network takes whole numbers only, "" where it
            takes any time; see `paths.whole_times`.
    """

    t_min: float = 1e-3
    t_max: float = 1.0
    whole: str = ""

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

    def asked_at(self, whole: str) -> Self:
        """The same path, its network asked where the time input `whole` is a whole number."""
        return replace(self, whole=whole)

    @property
    def begins_in_noise(self) -> bool:
        """Whether nothing of the data is left at t_max: alpha is 0 there."""
        return float(self.alpha(self.t_max)) <= NOTHING * float(self.sigma(self.t_max))

    @property
    def ends_in_data(self) -> bool:
        """Whether no noise is left at t_min: sigma is 0 there."""
        return float(self.sigma(self.t_min)) <= NOTHING * float(self.alpha(self.t_min))

    @property
    def levels(self) -> tuple[float, float]:
        """Log-SNR at t_max and at t_min; for an end that has none, `NOISIEST` or `CLEANEST`, `APART` from the other."""
        if not (self.begins_in_noise or self.ends_in_data):
            return float(self.log_snr(self.t_max)), float(self.log_snr(self.t_min))
        first = NOISIEST if self.begins_in_noise else float(self.log_snr(self.t_max))
        last = max(CLEANEST, first + APART) if self.ends_in_data else float(self.log_snr(self.t_min))
        return (min(first, last - APART) if self.begins_in_noise else first), last

    @property
    def finite(self) -> Self:
        """The same path between the times of its `levels`: itself where both ends have a log-SNR."""
        if not (self.begins_in_noise or self.ends_in_data):
            return self
        first, last = self.levels
        high = float(self.time_of_log_snr(first)) if self.begins_in_noise else self.t_max
        low = float(self.time_of_log_snr(last)) if self.ends_in_data else self.t_min
        return self.between(low, high)
