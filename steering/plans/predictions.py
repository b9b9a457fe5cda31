"""What a network predicts, and the linear map from its output to the denoised estimate D = E[x_0 | x_t].

With x_t = alpha x_0 + sigma eps, every parameterisation is linear in (x_t, output), so D = state * x_t + output * out
with two float64 numbers that depend on t alone. Where the data's range is known, D may be limited to it (`limits`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.errors import PlanError, choose
from steering.paths import Path, whole_times
from steering.paths.base import NOTHING
from steering.plans.limits import Limit

Scalar = float | Float64[Tensor, " n"]
"""A number for all rows, or one a row."""


@dataclass(frozen=True)
class Denoise:
    """D = state * x + output * network(scale * x, t), within `limit` where there is one."""

    t: Scalar
    scale: Scalar
    state: Scalar
    output: Scalar
    limit: Limit | None = None

    def scaled(self, x: Tensor) -> Tensor:
        """What the network is given for states x [B, *event]."""
        return x if isinstance(self.scale, float) and self.scale == 1 else x * _along(self.scale, x)

    def __call__(self, x: Tensor, output: Tensor) -> Tensor:
        """Denoised estimate of x, both [B, *event]."""
        denoised = self.linear(x, output)
        return denoised if self.limit is None else self.limit(denoised)

    def linear(self, x: Tensor, output: Tensor) -> Tensor:
        """The estimate before its limit."""
        if isinstance(self.state, float) and self.state == 0 and self.output == 1:
            return output
        return x * _along(self.state, x) + output * _along(self.output, x)


def _along(c: Scalar, x: Tensor) -> float | Tensor:
    """A scalar as a factor of x [B, *event]."""
    return c if isinstance(c, float) else c.to(x.dtype).reshape(-1, *(1 for _ in x.shape[1:]))


Coefficients = Callable[[Path, Tensor], tuple[Tensor, Tensor]]


def _eps(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
    """eps = (x - alpha x_0) / sigma."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    return 1 / alpha, -sigma / alpha


def _x0(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(t), torch.ones_like(t)


def _v(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
    """v = alpha eps - sigma x_0 (Salimans & Ho 2022, arXiv:2202.00512), on any path."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    norm = alpha**2 + sigma**2
    return alpha / norm, -sigma / norm


def _velocity(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
    """u = alpha' x_0 + sigma' eps, the velocity of flow matching."""
    rate = path.sigma_dot(t) / path.sigma(t)
    slope = path.alpha_dot(t) - path.alpha(t) * rate
    return -rate / slope, 1 / slope


def _score(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
    """S = grad log p_t(x) = (alpha D - x) / sigma^2 (Tweedie)."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    return 1 / alpha, sigma**2 / alpha


PREDICTIONS: Mapping[str, Coefficients] = {"eps": _eps, "x0": _x0, "v": _v, "velocity": _velocity, "score": _score}
PRECONDITIONINGS = ("none", "edm")


def denoise(
    path: Path,
    t: float | Tensor,
    prediction: str,
    preconditioning: str = "none",
    sigma_data: float = 0.5,
    trained: Path | None = None,
    limit: Limit | None = None,
) -> Denoise:
    """The rule for the denoised estimate at path times t, a number or one per row [n].

    `preconditioning="edm"` is for raw EDM networks F: D = c_skip y + c_out F(c_in y), y = x / alpha at noise level
    rho = sigma / alpha (Karras et al. 2022, table 1); their `prediction` is "x0". A network `trained` on another path
    is asked at that path's time of equal rho, where the same process reads alpha' / alpha x. One that takes whole times
    only (`Path.whole`) is asked at the nearest of those, t', and D is what it says there of the same x / alpha: for a
    Gaussian the mean of D stays exact, and its variance is that of the level t'.
    """
    if isinstance(t, Tensor):
        return Denoise(*_coefficients(path, t, prediction, preconditioning, sigma_data, trained or path), limit)
    times = torch.tensor([t], dtype=torch.float64)
    return rules(path, times, prediction, preconditioning, sigma_data, trained, limit)[0]


def rules(
    path: Path,
    times: Float64[Tensor, " k"],
    prediction: str,
    preconditioning: str = "none",
    sigma_data: float = 0.5,
    trained: Path | None = None,
    limit: Limit | None = None,
) -> list[Denoise]:
    """`denoise` at many times at once."""
    columns = _coefficients(path, times, prediction, preconditioning, sigma_data, trained or path)
    rows = torch.stack(columns, dim=1).tolist()
    return [Denoise(at, scale, state, output, limit) for at, scale, state, output in rows]


def _coefficients(
    path: Path, times: Float64[Tensor, " k"], prediction: str, preconditioning: str, sigma_data: float, trained: Path
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The network's time, and scale, state and output of `Denoise`, [k] each."""
    if prediction not in PREDICTIONS:
        raise PlanError(choose("prediction", prediction, PREDICTIONS))
    if preconditioning not in PRECONDITIONINGS:
        raise PlanError(choose("preconditioning", preconditioning, PRECONDITIONINGS))
    if preconditioning == "edm" and prediction != "x0":
        raise PlanError(f"preconditioning 'edm' wraps a network into an x0 prediction, got prediction {prediction!r}")
    t, ratio = times, torch.ones_like(times)
    if trained != path:
        t = trained.time_of_log_snr(path.log_snr(times)).clamp(trained.t_min, trained.t_max)
    if trained.whole:
        t = whole_times(trained, t)
    alpha, sigma = path.alpha(times), path.sigma(times)
    begins = alpha <= NOTHING * sigma  # x is noise alone, and x / alpha no number
    if trained != path or trained.whole:
        ratio = torch.where(begins, trained.sigma(t) / sigma, trained.alpha(t) / alpha)
    if preconditioning == "none":
        state, output = PREDICTIONS[prediction](trained, t)
        return t, ratio, state * ratio, output
    rho = trained.sigma(t) / trained.alpha(t) if trained.whole else sigma / alpha
    norm = rho**2 + sigma_data**2
    scale = torch.where(begins, rho / sigma / norm.sqrt(), 1 / (alpha * norm.sqrt()))
    state = torch.where(begins, sigma_data**2 / norm * (rho / sigma), sigma_data**2 / norm / alpha)
    output = rho * sigma_data / norm.sqrt()
    endless = rho.isinf()
    scale, state = torch.where(endless, 1 / sigma, scale), torch.where(endless, 0.0, state)
    return t, scale, state, torch.where(endless, sigma_data, output)
