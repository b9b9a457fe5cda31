"""V(t) = E |x_0 - D(x_t)|^2 / dimensions: how wrong the denoised estimate is, the variance of local posteriors."""

import math
from bisect import bisect_left
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.numerics.noise import Draw, Noise
from steering.paths import Path
from steering.plans.limits import Limit
from steering.plans.predictions import denoise
from steering.sampling.rows import Rows

TIMES = 16
ROWS_PER_TIME = 256
SEED = 0x7117


@dataclass(frozen=True)
class Calibration:
    """Mean squared error of D over path times, `t` increasing and `mse` >= 0, both of the same length."""

    t: tuple[float, ...]
    mse: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.t) != len(self.mse) or len(self.t) < 2:
            raise ValueError(
                f"calibration: expected two or more times with one mse each, got {len(self.t)} and {len(self.mse)}"
            )
        if any(b <= a for a, b in zip(self.t, self.t[1:], strict=False)) or any(not v >= 0 for v in self.mse):
            raise ValueError("calibration: expected increasing times and mse >= 0")

    def variance(self, path: Path, t: float) -> float:
        """V(t), linear in (log-SNR, log mse) between the recorded times and constant beyond them."""
        if t <= self.t[0]:
            return self.mse[0]
        if t >= self.t[-1]:
            return self.mse[-1]
        right = bisect_left(self.t, t)
        here, a, b = (float(path.log_snr(s)) for s in (t, self.t[right - 1], self.t[right]))
        if not math.isfinite(a):
            return self.mse[right]
        if not math.isfinite(b):
            return self.mse[right - 1]
        low, high = (math.log(max(self.mse[i], 1e-12)) for i in (right - 1, right))
        return math.exp(low + (high - low) * (here - a) / (b - a))

    def rescheduled(self, trained: Path, path: Path) -> "Calibration":
        """The same curve over the times of another path at which its log-SNR is the same."""
        if path == trained:
            return self
        times = path.time_of_log_snr(trained.log_snr(torch.tensor(self.t, dtype=torch.float64)))
        return Calibration(tuple(times.tolist()), self.mse)


@dataclass(frozen=True)
class Uncalibrated:
    """The variance of x_0 given x_t if the data were Gaussian with variance `data`: what to use before measuring."""

    data: float = 1.0

    def variance(self, path: Path, t: float) -> float:
        """V = data sigma^2 / (alpha^2 data + sigma^2)."""
        alpha2, sigma2 = float(path.alpha(t)) ** 2, float(path.sigma(t)) ** 2
        return self.data * sigma2 / (alpha2 * self.data + sigma2)


def calibrate(
    samples: Tensor,
    path: Path,
    prediction: str,
    preconditioning: str = "none",
    sigma_data: float = 0.5,
    trained: Path | None = None,
    limit: Limit | None = None,
) -> Generator[Rows, Tensor, Calibration]:
    """Measure V on the model's own samples [K, *event], at 16 times uniform in log-SNR; yields network rows."""
    x0 = samples[:ROWS_PER_TIME]
    noise = Noise(SEED, range(len(x0)))
    ends = path.finite
    noisiest, cleanest = path.levels
    log_snrs = torch.linspace(cleanest, noisiest, TIMES, dtype=torch.float64)
    times = [ends.t_min, *path.time_of_log_snr(log_snrs)[1:-1].tolist(), ends.t_max]
    errors = []
    for stage, t in enumerate(times):
        eps = noise.normal(stage, Draw.CALIBRATION, x0.shape[1:], x0.dtype)
        x = x0 * float(path.alpha(t)) + eps * float(path.sigma(t))
        rule = denoise(path, t, prediction, preconditioning, sigma_data, trained, limit)
        output = yield Rows.network(rule.scaled(x), rule.t)
        errors.append(float((x0 - rule(x, output)).to(torch.float64).square().mean()))
    return Calibration(tuple(times), tuple(errors))
