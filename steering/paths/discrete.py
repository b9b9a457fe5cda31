"""Variance-preserving paths of networks trained at N integer steps, such as Stable Diffusion's.

Step n lies at t_n = (n + 1) / N with alpha(t_n)^2 = alpha_bar_n; log alpha is straight in t in between, and from
log alpha(0) = 0 (Lu et al. 2022, arXiv:2206.00927, appendix D). In log-SNR, where solvers work, nothing of the table's
corners is left: they are corners of t alone. The integer a network was trained with is n = N t - 1, the time input
"N*t-1".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from steering.errors import choose
from steering.paths.base import Path, Time, float64
from steering.paths.piecewise import Piecewise
from steering.paths.variance_preserving import VariancePreserving

BETA_SCHEDULES = ("linear", "scaled_linear")


@dataclass(frozen=True, kw_only=True)
class VPDiscrete(VariancePreserving):
    """alpha^2 from a table, one number a step, falling from below 1."""

    alpha_bars: tuple[float, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"alpha_bars: expected two or more numbers, got {self.steps}")
        for before, after in pairwise((1.0, *self.alpha_bars, 0.0)):
            if not before > after:
                raise ValueError(
                    f"alpha_bars: expected numbers falling from 1 to 0, both left out, got {after} after {before}"
                )
        super().__post_init__()
        if self.t_min < 1 / self.steps or self.t_max > 1:
            raise ValueError(
                f"a path of {self.steps} steps has times in {1 / self.steps:g}..1, got t_min={self.t_min}, "
                f"t_max={self.t_max}"
            )

    @property
    def steps(self) -> int:
        """N."""
        return len(self.alpha_bars)

    @cached_property
    def _decay(self) -> Piecewise:
        """-log alpha over t."""
        table = torch.tensor((1.0, *self.alpha_bars), dtype=torch.float64)
        return Piecewise(torch.arange(len(table), dtype=torch.float64) / self.steps, -0.5 * torch.log(table))

    def log_alpha(self, t: Time) -> Tensor:
        return -self._decay(float64(t))

    def log_alpha_dot(self, t: Time) -> Tensor:
        return -self._decay.slope(float64(t))

    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        return self._decay.inverse(-log_alpha)


def vp_discrete(*, alpha_bars: Sequence[float], t_min: float | None = None, t_max: float = 1.0) -> Path:
    """The path of a table of alpha_bar (diffusers' `alphas_cumprod`), from the first step, t = 1 / N, to the last."""
    table = tuple(map(float, alpha_bars))
    return VPDiscrete(alpha_bars=table, t_min=1 / max(len(table), 1) if t_min is None else t_min, t_max=t_max)


def vp_betas(
    *,
    schedule: str = "scaled_linear",
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    steps: int = 1000,
    t_min: float | None = None,
    t_max: float = 1.0,
) -> Path:
    """The path of `steps` betas, alpha_bar_n = prod_{i <= n} (1 - beta_i); the defaults are Stable Diffusion's.

    Args:
        schedule: "linear", from beta_start to beta_end (Ho et al. 2020), or "scaled_linear", their roots (Rombach et
            al. 2022).
    """
    if schedule not in BETA_SCHEDULES:
        raise ValueError(choose("schedule", schedule, BETA_SCHEDULES))
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(f"expected 0 < beta_start <= beta_end < 1, got beta_start={beta_start}, beta_end={beta_end}")
    if steps != int(steps) or not 2 <= steps <= 100_000:
        raise ValueError(f"steps: expected an integer in 2..100000, got {steps}")
    power = 2 if schedule == "scaled_linear" else 1
    betas = torch.linspace(beta_start ** (1 / power), beta_end ** (1 / power), int(steps), dtype=torch.float64) ** power
    alpha_bars = torch.exp(torch.cumsum(torch.log1p(-betas), 0))
    return vp_discrete(alpha_bars=alpha_bars.tolist(), t_min=t_min, t_max=t_max)
