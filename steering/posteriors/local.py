"""The interface of local posteriors: deviations from the denoised estimate."""

from typing import Protocol

from torch import Tensor

from steering.noise import Noise
from steering.paths import Path
from steering.plan import Node


class Variance(Protocol):
    """V(t), the mean squared error of D per dimension; `Calibration` and `Uncalibrated` are two."""

    def variance(self, path: Path, t: float) -> float: ...


class Local(Protocol):
    """Draws of x_0 - D given x_t, symmetric about 0: each is used with both signs."""

    @property
    def calibration(self) -> Variance | None:
        """V(t); None until it has been measured."""
        ...

    def calibrated(self, calibration: Variance) -> "Local":
        """The same posterior with this V(t)."""
        ...

    def deviations(self, x: Tensor, path: Path, at: Node, stage: int, pairs: int, noise: Noise) -> Tensor:
        """[n, pairs, d] deviations for states x [n, d] at node `at`."""
        ...
