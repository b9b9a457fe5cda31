"""Kinetic-optimal paths (Shaul et al. 2023, arXiv:2306.06626): the least E int_0^1 |u|^2 dt among Gaussian paths.

The data enter through two things, their second moment V = E|x_0|^2 and the error of their best denoiser at noise level
rho, m(rho) = E|x_0 - D|^2, both per dimension. With rho = sigma / alpha and lambda = -log rho,

    E|u|^2 = V alpha'^2 + sigma'^2 - m (alpha lambda')^2 = R'^2 + (R psi')^2

    R^2 = V alpha^2 + sigma^2,   |d psi| = sqrt(1 - m / m_linear) sqrt(V) rho / (V + rho^2) |d lambda|

where m_linear = V rho^2 / (V + rho^2) is the error of the best linear denoiser without an offset. R and psi are polar
coordinates of a plane, and the energy is that of a point moving in it: the optimal path is a straight line, from
R = sqrt(V), psi = 0 (data) to R = 1, psi = Psi (noise), with the energy V + 1 - 2 sqrt(V) cos Psi.

Data far apart (m = 0) have Psi = pi / 2 and the rectified flow for optimal path. A Gaussian N(mu, v) has
tan Psi = |mu| / sqrt(v), and the energy is the squared Wasserstein distance to N(0, 1), below which no path can go.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from steering.numerics.noise import Draw, Noise
from steering.paths.base import Path, Time, float64
from steering.paths.piecewise import Piecewise

FLOOR = 1e-4  # of 1 - m / m_linear: where no angle is needed, the path still has to pass every noise level


@dataclass(frozen=True)
class DenoisingError:
    """m per dimension at log-SNR levels, these rising, and the data's second moment V per dimension."""

    log_snr: tuple[float, ...] = field(repr=False)
    mse: tuple[float, ...] = field(repr=False)
    second_moment: float

    def __post_init__(self) -> None:
        if len(self.log_snr) != len(self.mse) or len(self.mse) < 2:
            raise ValueError(
                f"expected two or more levels of log_snr with one mse each, got {len(self.log_snr)} and {len(self.mse)}"
            )
        if not all(a < b for a, b in pairwise(self.log_snr)):
            raise ValueError("log_snr: expected every level once, in rising order, got others")
        if not all(m >= 0 for m in self.mse) or not self.second_moment > 0:
            raise ValueError(
                f"expected mse >= 0 and second_moment > 0, got mse from {min(self.mse)}, "
                f"second_moment={self.second_moment}"
            )

    def falling(self) -> tuple[Tensor, Tensor]:
        """Levels of log-SNR from data to noise, and m there."""
        log_snr, mse = (torch.tensor(column[::-1], dtype=torch.float64) for column in (self.log_snr, self.mse))
        return log_snr, mse

    def angles(self) -> Tensor:
        """psi at the falling levels, 0 at the first."""
        log_snr, mse = self.falling()
        rho, v = torch.exp(-log_snr), self.second_moment
        gain = 1 - mse * (v + rho**2) / (v * rho**2)
        rate = gain.clamp(min=FLOOR).sqrt() * v**0.5 * rho / (v + rho**2)
        return torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumulative_trapezoid(rate, -log_snr)])


def empirical_error(samples: Float[Tensor, "n d"], log_snr: Sequence[float], seed: int = 0) -> DenoisingError:
    """The error for the law of n samples themselves, whose best denoiser is their softmax average; n of a few thousand.

    For the law behind them use the errors of a network trained on it instead, as `steering.calibrate` measures them.
    """
    x0 = samples.to(torch.float64)
    noise, errors = Noise(seed, range(len(x0))), []
    for stage, level in enumerate(sorted(log_snr)):
        rho = float(torch.exp(-float64(level)))
        y = x0 + rho * noise.normal(stage, Draw.CALIBRATION, x0.shape[1:])
        weights = torch.softmax(-torch.cdist(y, x0).square() / (2 * rho**2), dim=1)
        errors.append(float((x0 - weights @ x0).square().mean()))
    return DenoisingError(tuple(sorted(log_snr)), tuple(errors), float(x0.square().mean()))


def kinetic_energy(path: Path, error: DenoisingError) -> float:
    """int E|u|^2 dt per dimension on a path, between the lowest and highest level of the error (trapezoidal rule)."""
    log_snr, mse = error.falling()
    t = path.time_of_log_snr(log_snr)
    alpha, alpha_dot, sigma_dot = path.alpha(t), path.alpha_dot(t), path.sigma_dot(t)
    rate = alpha_dot / alpha - sigma_dot / path.sigma(t)
    energy = error.second_moment * alpha_dot**2 + sigma_dot**2 - mse * (alpha * rate) ** 2
    return float(torch.trapezoid(energy / rate.abs(), -log_snr))


@dataclass(frozen=True, kw_only=True)
class KineticOptimal(Path):
    """The straight line, from the error's highest log-SNR at t = 0 to its lowest at t = 1; log rho is straight in psi
    between the levels.
    """

    t_min: float = 0.0
    error: DenoisingError

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.t_max > 1:
            raise ValueError(f"a kinetic-optimal path needs t_max <= 1, got {self.t_max}")

    @cached_property
    def _log_rho(self) -> Piecewise:
        """Over psi."""
        return Piecewise(self.error.angles(), -self.error.falling()[0])

    @cached_property
    def _line(self) -> tuple[float, float, float]:
        """The start (x, 0) and the end (x, y)."""
        end = self._log_rho.x[-1]
        return self.error.second_moment**0.5, float(torch.cos(end)), float(torch.sin(end))

    def _at(self, t: Time) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """R, R' / R, log rho and its derivative."""
        (start, x1, y1), t = self._line, float64(t)
        x, y, x_dot = start + t * (x1 - start), t * y1, x1 - start
        square = x**2 + y**2
        psi = 2 * torch.atan(y / (square.sqrt() + x))  # not atan2, whose rounding depends on the number of times
        turn = (x * y1 - y * x_dot) / square
        return square.sqrt(), (x * x_dot + y * y1) / square, self._log_rho(psi), self._log_rho.slope(psi) * turn

    def alpha(self, t: Time) -> Tensor:
        radius, _, log_rho, _ = self._at(t)
        return radius / torch.sqrt(self.error.second_moment + torch.exp(2 * log_rho))

    def sigma(self, t: Time) -> Tensor:
        return self.alpha(t) * torch.exp(self._at(t)[2])

    def _growth(self, t: Time) -> Tensor:
        """d log alpha / dt."""
        _, growth, log_rho, rate = self._at(t)
        return growth - rate / (1 + self.error.second_moment * torch.exp(-2 * log_rho))

    def alpha_dot(self, t: Time) -> Tensor:
        return self.alpha(t) * self._growth(t)

    def sigma_dot(self, t: Time) -> Tensor:
        return self.sigma(t) * (self._growth(t) + self._at(t)[3])

    def log_snr(self, t: Time) -> Tensor:
        return -self._at(t)[2]

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        # the ray at psi meets the line
        (start, x1, y1), psi = self._line, self._log_rho.inverse(-float64(log_snr))
        across = start * torch.sin(psi)
        return across / (across + y1 * torch.cos(psi) - x1 * torch.sin(psi))

    def spanning(self, first: float, last: float) -> Self:
        lowest, highest = self.error.log_snr[0], self.error.log_snr[-1]
        if first < lowest - 1e-9 or last > highest + 1e-9:
            raise ValueError(
                f"a kinetic-optimal path fitted at log-SNR {lowest:g}..{highest:g} cannot span {first:g}..{last:g}"
            )
        low, high = (float(self.time_of_log_snr(level).clamp(0, 1)) for level in (last, first))
        return self.between(low, high)


def kinetic_optimal(
    *, log_snr: Sequence[float], mse: Sequence[float], second_moment: float, t_min: float = 0.0, t_max: float = 1.0
) -> Path:
    """The kinetic-optimal path for the errors `mse` of a denoiser at levels `log_snr`, in either order.

    `second_moment` is E|x_0|^2 per dimension. From a network: `c = calibrate(...)` on its path gives
    log_snr = path.log_snr(tensor(c.t)) and mse = c.mse. From samples: `empirical_error`.
    """
    if len(log_snr) != len(mse):
        raise ValueError(f"expected one mse a level of log_snr, got {len(mse)} and {len(log_snr)}")
    levels, errors = zip(*sorted(zip(log_snr, mse, strict=True)), strict=True) if len(mse) else ((), ())
    error = DenoisingError(tuple(map(float, levels)), tuple(map(float, errors)), float(second_moment))
    return KineticOptimal(error=error, t_min=t_min, t_max=t_max)
