"""Samples that each have a noise level of their own, as they would lie on a variance-preserving path.

    y = x / sqrt(alpha^2 + sigma^2) = a D + s eps,   a^2 + s^2 = 1,   a / s = e^lambda

The log-SNR lambda says all there is to know of a level, whatever the path; and y is of the data's own size at all of
them, so that one tolerance fits.
"""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem, evaluate


def along(c: Float64[Tensor, " n"], y: Tensor) -> Tensor:
    """One number a sample, as a factor of y [n, *event]."""
    return c.to(y.dtype).reshape(-1, *(1 for _ in y.shape[1:]))


@dataclass(frozen=True)
class NoiseLevel:
    """Log-SNRs [n], one a sample."""

    log_snr: Float64[Tensor, " n"]

    @property
    def alpha(self) -> Tensor:
        return 1 / torch.sqrt(1 + torch.exp(-2 * self.log_snr))

    @property
    def sigma(self) -> Tensor:
        return 1 / torch.sqrt(1 + torch.exp(2 * self.log_snr))

    def times(self, problem: Problem) -> Tensor:
        """The path's times of these levels."""
        path = problem.plan.path
        return path.time_of_log_snr(self.log_snr).clamp(path.t_min, path.t_max)

    def size(self, problem: Problem) -> Tensor:
        """sqrt(alpha^2 + sigma^2) on the problem's path, so that x = size y."""
        path, t = problem.plan.path, self.times(problem)
        return torch.sqrt(path.alpha(t) ** 2 + path.sigma(t) ** 2)

    def denoised(self, problem: Problem, y: Tensor) -> Generator[Rows, Tensor, Tensor]:
        """D of the states y [n, *event], one network row each (two under guidance)."""
        rule = problem.plan.denoise(self.times(problem))
        return (yield from evaluate(problem, rule, y * along(self.size(problem), y)))

    def eps(self, problem: Problem, y: Tensor) -> Generator[Rows, Tensor, Tensor]:
        """The noise (y - a D) / s in the states y."""
        denoised = yield from self.denoised(problem, y)
        return (y - along(self.alpha, y) * denoised) / along(self.sigma, y)
