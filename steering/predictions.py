"""What a network predicts, and the linear map from its output to the denoised estimate D = E[x_0 | x_t].

With x_t = alpha x_0 + sigma eps, every parameterisation is linear in (x_t, output), so D = state * x_t + output * out
with two float64 numbers that depend on t alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.errors import PlanError, choose
from steering.paths import Path


@dataclass(frozen=True)
class Denoise:
    """D = state * x + output * network(scale * x, t)."""

    scale: float
    state: float
    output: float

    def __call__(self, x: Tensor, output: Tensor) -> Tensor:
        """Denoised estimate of x, both [B, *event]."""
        if self.state == 0 and self.output == 1:
            return output
        return x * self.state + output * self.output


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


def denoise(path: Path, t: float, prediction: str, preconditioning: str = "none", sigma_data: float = 0.5) -> Denoise:
    """Coefficients of the denoised estimate at path time t.

    `preconditioning="edm"` is for raw EDM networks F: D = c_skip y + c_out F(c_in y), y = x / alpha at noise level
    rho = sigma / alpha (Karras et al. 2022, table 1); their `prediction` is "x0".
    """
    if prediction not in PREDICTIONS:
        raise PlanError(choose("prediction", prediction, PREDICTIONS))
    if preconditioning not in PRECONDITIONINGS:
        raise PlanError(choose("preconditioning", preconditioning, PRECONDITIONINGS))
    if preconditioning == "none":
        state, output = PREDICTIONS[prediction](path, torch.tensor(t, dtype=torch.float64))
        return Denoise(scale=1.0, state=float(state), output=float(output))
    if prediction != "x0":
        raise PlanError(f"preconditioning 'edm' wraps a network into an x0 prediction, got prediction {prediction!r}")
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    rho = sigma / alpha
    norm = rho**2 + sigma_data**2
    return Denoise(
        scale=1 / (alpha * norm**0.5), state=sigma_data**2 / norm / alpha, output=rho * sigma_data / norm**0.5
    )
