"""Variance-preserving paths of networks trained at N integer steps, such as Stable Diffusion's.

Step n lies at t_n = (n + 1) / N with alpha(t_n)^2 = alpha_bar_n; log alpha is straight in t in between, and from
log alpha(0) = 0 (Lu et al. 2022, arXiv:2206.00927, appendix D). In log-SNR, where solvers work, nothing of the table's
corners is left: they are corners of t alone. The integer a network was trained with is n = N t - 1, the time input
"N*t-1".

What is straight between the steps is a convention: nothing was trained there. Where fractional steps are to be those of
another library, it may also be rho = sigma / alpha or log rho.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from steering.errors import choose
from steering.paths.base import Path, Time, float64, softplus
from steering.paths.piecewise import Piecewise
from steering.paths.variance_preserving import VariancePreserving

BETA_SCHEDULES = ("linear", "scaled_linear", "sigmoid", "squaredcos_cap_v2")
_ENDS: Mapping[str, tuple[float, float]] = {"sigmoid": (1e-4, 0.02)}
"""Usual first and last betas, where they are not Stable Diffusion's."""
STRAIGHT = ("log_alpha", "rho", "log_rho")
"""What may be straight in t between two steps."""
ROUNDING = 1e-9
"""Of times that were computed from a noise level."""
_MOST_BETA = 0.999
"""Of the cosine schedule, whose last beta would be 1."""


@dataclass(frozen=True, kw_only=True)
class VPDiscrete(VariancePreserving):
    """alpha^2 from a table, one number a step, falling from below 1."""

    alpha_bars: tuple[float, ...] = field(repr=False)
    straight_in: str = "log_alpha"

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"alpha_bars: expected two or more numbers, got {self.steps}")
        for before, after in pairwise((1.0, *self._above_0, 0.0)):
            if not before > after:
                raise ValueError(
                    f"alpha_bars: expected numbers falling from 1 to 0, without 1 and with 0 as the last at most, "
                    f"got {after} after {before}"
                )
        super().__post_init__()
        if self.straight_in not in STRAIGHT:
            raise ValueError(choose("straight_in", self.straight_in, STRAIGHT))
        if self.t_min < (1 - ROUNDING) / self.steps or self.t_max > 1:
            raise ValueError(
                f"a path of {self.steps} steps has times in {1 / self.steps:g}..1, got t_min={self.t_min}, "
                f"t_max={self.t_max}"
            )

    @property
    def steps(self) -> int:
        """N."""
        return len(self.alpha_bars)

    @property
    def _above_0(self) -> tuple[float, ...]:
        """The numbers that have a logarithm."""
        return self.alpha_bars

    @cached_property
    def _table(self) -> Piecewise:
        """What is straight, over t: -log alpha, rho or log rho."""
        first = 1 if self.straight_in == "log_rho" else 0  # where rho is 0, it has no logarithm
        logs = 0.5 * torch.log(torch.tensor((1.0, *self._above_0), dtype=torch.float64))[first:]
        times = torch.arange(first, first + len(logs), dtype=torch.float64) / self.steps
        return Piecewise(times, self._straightened(logs))

    def _straightened(self, log_alpha: Tensor) -> Tensor:
        if self.straight_in == "log_alpha":
            return -log_alpha
        rho = torch.sqrt(torch.expm1(-2 * log_alpha).clamp(min=0))
        return rho if self.straight_in == "rho" else torch.log(rho)

    def log_alpha(self, t: Time) -> Tensor:
        value = self._table(float64(t))
        if self.straight_in == "log_alpha":
            return -value
        return -0.5 * (torch.log1p(value**2) if self.straight_in == "rho" else softplus(2 * value))

    def log_alpha_dot(self, t: Time) -> Tensor:
        t = float64(t)
        value, slope = self._table(t), self._table.slope(t)
        if self.straight_in == "log_alpha":
            return -slope
        # log alpha = -log(1 + rho^2) / 2
        return -slope * (
            value / (1 + value**2) if self.straight_in == "rho" else torch.exp(2 * value - softplus(2 * value))
        )

    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        return self._table.inverse(self._straightened(log_alpha))


@dataclass(frozen=True, kw_only=True)
class VPZeroTerminal(VPDiscrete):
    """A table whose last number is 0: nothing of the data is left (Lin et al. 2023, arXiv:2305.08891).

    In the last interval alpha itself is straight, since its logarithm has no end.
    """

    @property
    def _above_0(self) -> tuple[float, ...]:
        return self.alpha_bars[:-1]

    @property
    def _bend(self) -> float:
        """Where the last interval begins."""
        return (self.steps - 1) / self.steps

    def _straight(self, t: Tensor) -> Tensor:
        """alpha in the last interval, and beyond it where it is not asked for."""
        return math.sqrt(self.alpha_bars[-2]) * self.steps * (1 - t).clamp(min=0)

    def log_alpha(self, t: Time) -> Tensor:
        t = float64(t)
        return torch.where(t > self._bend, torch.log(self._straight(t)), super().log_alpha(t))

    def log_alpha_dot(self, t: Time) -> Tensor:
        t = float64(t)
        return torch.where(t > self._bend, -1 / (1 - t), super().log_alpha_dot(t))

    def alpha_dot(self, t: Time) -> Tensor:
        t = float64(t)
        slope = torch.full_like(t, -math.sqrt(self.alpha_bars[-2]) * self.steps)
        return torch.where(t > self._bend, slope, super().alpha_dot(t))

    def sigma_dot(self, t: Time) -> Tensor:
        return -self.alpha_dot(t) * self.alpha(t) / self.sigma(t)

    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        log_alpha = float64(log_alpha)
        last = 0.5 * math.log(self.alpha_bars[-2])
        faded = 1 - torch.exp(log_alpha - last) / self.steps
        return torch.where(log_alpha < last, faded, super().time_of_log_alpha(log_alpha.clamp(min=last)))


def vp_discrete(
    *,
    alpha_bars: Sequence[float],
    straight_in: str = "log_alpha",
    t_min: float | None = None,
    t_max: float | None = None,
) -> Path:
    """The path of a table of alpha_bar (diffusers' `alphas_cumprod`), from the first step, t = 1 / N, to the last.

    If the table ends in 0, the path ends by default at the step before, the last with some of the data in it. What is
    straight between two steps is "log_alpha", "rho" or "log_rho".
    """
    table = tuple(map(float, alpha_bars))
    n = max(len(table), 1)
    ends_in_noise = len(table) > 1 and table[-1] == 0
    last = 1 - 1 / n if ends_in_noise else 1.0
    kind = VPZeroTerminal if ends_in_noise else VPDiscrete
    return kind(
        alpha_bars=table,
        straight_in=straight_in,
        t_min=1 / n if t_min is None else t_min,
        t_max=last if t_max is None else t_max,
    )


def vp_betas(
    *,
    schedule: str = "scaled_linear",
    beta_start: float | None = None,
    beta_end: float | None = None,
    steps: int = 1000,
    zero_terminal_snr: bool = False,
    last_alpha_bar: float = 0.0,
    straight_in: str = "log_alpha",
    single: bool = False,
    t_min: float | None = None,
    t_max: float | None = None,
) -> Path:
    """The path of `steps` betas, alpha_bar_n = prod_{i <= n} (1 - beta_i), under the names that diffusers gives them.

    Args:
        schedule: "linear", from beta_start to beta_end (Ho et al. 2020); "scaled_linear", their roots (Rombach et al.
            2022); "sigmoid", on a sigmoid from -6 to 6; "squaredcos_cap_v2", the cosine schedule (Nichol & Dhariwal
            2021), which takes no beta_start and beta_end.
        beta_start: None for 0.00085, Stable Diffusion's ("sigmoid": 0.0001).
        beta_end: None for 0.012 ("sigmoid": 0.02).
        zero_terminal_snr: move and scale the roots of alpha_bar so that the last is 0 and the first stays (Lin et al.
            2023, arXiv:2305.08891, algorithm 1; diffusers' `rescale_betas_zero_snr`).
        last_alpha_bar: what stands for that 0, so that rho has a number there: 2^-24 in diffusers' solvers in rho.
        straight_in: what is straight in t between two steps, "log_alpha", "rho" or "log_rho".
        single: compute the table in single precision throughout, as diffusers does: the first and the last levels then
            differ in their fifth digit.
    """
    if schedule not in BETA_SCHEDULES:
        raise ValueError(choose("schedule", schedule, BETA_SCHEDULES))
    if steps != int(steps) or not 2 <= steps <= 100_000:
        raise ValueError(f"steps: expected an integer in 2..100000, got {steps}")
    dtype = torch.float32 if single else torch.float64
    if schedule == "squaredcos_cap_v2":
        if not beta_start is beta_end is None:
            raise ValueError(f"schedule {schedule!r}: expected no beta_start and beta_end, got some")
        betas = _cosine_betas(int(steps)).to(dtype)
    else:
        first, last = _ENDS.get(schedule, (0.00085, 0.012))
        first, last = first if beta_start is None else beta_start, last if beta_end is None else beta_end
        betas = _betas(schedule, first, last, int(steps), dtype)
    if last_alpha_bar and not zero_terminal_snr:
        raise ValueError(f"last_alpha_bar: expected zero_terminal_snr beside it, got {last_alpha_bar:g} alone")
    alpha_bars = products(betas)
    if zero_terminal_snr:
        roots = torch.sqrt(alpha_bars)
        alpha_bars = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
        if single:  # by way of betas, which rounds once more
            ratios = torch.cat([alpha_bars[:1], alpha_bars[1:] / alpha_bars[:-1]])
            alpha_bars = products(1 - ratios)
        alpha_bars[-1] = last_alpha_bar
    return vp_discrete(alpha_bars=alpha_bars.tolist(), straight_in=straight_in, t_min=t_min, t_max=t_max)


def products(betas: Tensor) -> Tensor:
    """alpha_bar_n = prod_{i <= n} (1 - beta_i), in the betas' own precision."""
    if betas.dtype == torch.float32:
        return torch.cumprod(1 - betas, 0)
    return torch.exp(torch.cumsum(torch.log1p(-betas), 0))


def _betas(schedule: str, beta_start: float, beta_end: float, steps: int, dtype: torch.dtype) -> Tensor:
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(f"expected 0 < beta_start <= beta_end < 1, got beta_start={beta_start}, beta_end={beta_end}")
    if schedule == "sigmoid":
        rising = torch.sigmoid(torch.linspace(-6, 6, steps, dtype=dtype))
        return beta_start + rising * (beta_end - beta_start)
    power = 2 if schedule == "scaled_linear" else 1
    return torch.linspace(beta_start ** (1 / power), beta_end ** (1 / power), steps, dtype=dtype) ** power


def _cosine_betas(steps: int) -> Tensor:
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bars = torch.cos(0.5 * math.pi * (t + 0.008) / 1.008) ** 2
    return (1 - alpha_bars[1:] / alpha_bars[:-1]).clamp(max=_MOST_BETA)
