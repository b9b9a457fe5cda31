"""Gaussian probability paths x_t = alpha(t) x_0 + sigma(t) eps, data at the small end of t, noise at the large end.

Every function takes a path time (a number or a tensor of any shape) and returns a float64 tensor of that shape:
schedule scalars lose all their digits in float32 near the ends (1 - alpha^2 at t = 1e-3).
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Time = float | Tensor


def _float64(t: Time) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64)


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

    def between(self, t_min: float, t_max: float) -> "Path":
        """The same path, sampled between other times."""
        return replace(self, t_min=float(t_min), t_max=float(t_max))


class _VariancePreserving(Path):
    """alpha^2 + sigma^2 = 1, given by log alpha (Song et al. 2021, arXiv:2011.13456)."""

    @abstractmethod
    def log_alpha(self, t: Time) -> Tensor: ...

    @abstractmethod
    def log_alpha_dot(self, t: Time) -> Tensor: ...

    def alpha(self, t: Time) -> Tensor:
        return torch.exp(self.log_alpha(t))

    def sigma(self, t: Time) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self.log_alpha(t)))

    def alpha_dot(self, t: Time) -> Tensor:
        return self.log_alpha_dot(t) * self.alpha(t)

    def sigma_dot(self, t: Time) -> Tensor:
        return -self.log_alpha_dot(t) * self.alpha(t) ** 2 / self.sigma(t)

    def log_snr(self, t: Time) -> Tensor:
        log_alpha = self.log_alpha(t)
        return log_alpha - 0.5 * torch.log(-torch.expm1(2 * log_alpha))


@dataclass(frozen=True, kw_only=True)
class VPCosine(_VariancePreserving):
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
        return 0.5 * math.pi * (_float64(t) + self.offset) / (1 + self.offset)

    @property
    def _cos_zero(self) -> float:
        return math.cos(0.5 * math.pi * self.offset / (1 + self.offset))

    def log_alpha(self, t: Time) -> Tensor:
        return torch.log(torch.cos(self._angle(t))) - math.log(self._cos_zero)

    def log_alpha_dot(self, t: Time) -> Tensor:
        return -torch.tan(self._angle(t)) * 0.5 * math.pi / (1 + self.offset)

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        alpha = torch.exp(-0.5 * torch.nn.functional.softplus(-2 * _float64(log_snr)))
        return torch.acos(alpha * self._cos_zero) * 2 * (1 + self.offset) / math.pi - self.offset


@dataclass(frozen=True, kw_only=True)
class VPLinear(_VariancePreserving):
    """The linear-beta schedule in continuous time (Song et al. 2021, eq. 33)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def log_alpha(self, t: Time) -> Tensor:
        t = _float64(t)
        return -0.25 * (self.beta_max - self.beta_min) * t**2 - 0.5 * self.beta_min * t

    def log_alpha_dot(self, t: Time) -> Tensor:
        return -0.5 * ((self.beta_max - self.beta_min) * _float64(t) + self.beta_min)

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        q = 2 * torch.nn.functional.softplus(-2 * _float64(log_snr))
        return q / (torch.sqrt(self.beta_min**2 + (self.beta_max - self.beta_min) * q) + self.beta_min)


class _VarianceExploding(Path):
    """alpha = 1: the noise level alone grows."""

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(_float64(t))

    def alpha_dot(self, t: Time) -> Tensor:
        return torch.zeros_like(_float64(t))


@dataclass(frozen=True, kw_only=True)
class EDM(_VarianceExploding):
    """sigma(t) = t: time is the noise level (Karras et al. 2022, arXiv:2206.00364)."""

    def sigma(self, t: Time) -> Tensor:
        return _float64(t).clone()

    def sigma_dot(self, t: Time) -> Tensor:
        return torch.ones_like(_float64(t))

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        return torch.exp(-_float64(log_snr))


@dataclass(frozen=True, kw_only=True)
class VE(_VarianceExploding):
    """sigma(t) = sigma_min (sigma_max / sigma_min)^t for t in [0, 1] (Song et al. 2021, eq. 31)."""

    t_min: float = 0.0
    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def sigma(self, t: Time) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** _float64(t)

    def sigma_dot(self, t: Time) -> Tensor:
        return self.sigma(t) * math.log(self.sigma_max / self.sigma_min)

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        return (-_float64(log_snr) - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True, kw_only=True)
class RectifiedFlow(Path):
    """alpha = 1 - t, sigma = t: straight lines from data to noise (Liu et al. 2022, arXiv:2209.03003)."""

    t_max: float = 1 - 1e-3

    def alpha(self, t: Time) -> Tensor:
        return 1 - _float64(t)

    def sigma(self, t: Time) -> Tensor:
        return _float64(t).clone()

    def alpha_dot(self, t: Time) -> Tensor:
        return -torch.ones_like(_float64(t))

    def sigma_dot(self, t: Time) -> Tensor:
        return torch.ones_like(_float64(t))

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        return torch.sigmoid(-_float64(log_snr))


def vp_cosine(*, t_min: float = 1e-3, t_max: float = 0.9946, offset: float = 0.008) -> Path:
    """Cosine variance-preserving path."""
    return VPCosine(t_min=t_min, t_max=t_max, offset=offset)


def vp_linear(*, t_min: float = 1e-3, t_max: float = 1.0, beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
    """Linear-beta variance-preserving path."""
    return VPLinear(t_min=t_min, t_max=t_max, beta_min=beta_min, beta_max=beta_max)


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Path:
    """Geometric variance-exploding path, t in [0, 1]."""
    _check_sigmas(sigma_min, sigma_max)
    return VE(sigma_min=sigma_min, sigma_max=sigma_max)


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Path:
    """EDM's path: time is the noise level, from sigma_max down to sigma_min."""
    _check_sigmas(sigma_min, sigma_max)
    return EDM(t_min=sigma_min, t_max=sigma_max)


def rectified_flow(*, t_min: float = 1e-3, t_max: float = 1 - 1e-3) -> Path:
    """Linear interpolation; the ends are kept off 0 and 1, where the log signal-to-noise ratio is infinite."""
    return RectifiedFlow(t_min=t_min, t_max=t_max)


def _check_sigmas(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"expected 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")


KINDS: Mapping[str, Callable[..., Path]] = {
    "vp_cosine": vp_cosine,
    "vp_linear": vp_linear,
    "ve": ve,
    "edm": edm,
    "rectified_flow": rectified_flow,
}


def build(description: Mapping[str, object], t_range: tuple[float, float] | None = None) -> Path:
    """The path of a model card: `kind` names it, the other keys are its arguments; `t_range` narrows its times.

    Raises:
        ValueError: an unknown kind or argument, or a value out of range; one line.
    """
    kind, arguments = description.get("kind"), {k: v for k, v in description.items() if k != "kind"}
    if kind not in KINDS:
        raise ValueError(f"unknown path {kind!r}: expected one of {', '.join(sorted(KINDS))}")
    known = inspect.signature(KINDS[str(kind)]).parameters
    if extra := sorted(set(arguments) - set(known)):
        raise ValueError(f"path {kind!r}: unknown argument {extra[0]!r}, expected some of {', '.join(known)}")
    path = KINDS[str(kind)](**arguments)
    return path.between(*t_range) if t_range else path


TIME_INPUTS: Mapping[str, Callable[[Path, Tensor], Tensor]] = {
    "t": lambda path, t: t,
    "1000*t": lambda path, t: 1000 * t,
    "sigma": lambda path, t: path.sigma(t),
    "log(sigma)/4": lambda path, t: path.sigma(t).log() / 4,
}
"""What a network's time input is fed at path times t, float64 in and out; the last is EDM's c_noise."""
