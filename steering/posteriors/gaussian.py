"""q(x_0 | x_t) = N(D, V(t) I), V the calibrated mean squared error of D."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from steering.calibration import Calibration
from steering.noise import Draw, Noise
from steering.paths import Path
from steering.plan import Node
from steering.posteriors.local import Variance


@dataclass(frozen=True)
class Gaussian:
    """Isotropic Gaussian about D; without a `calibration` it is measured on first use."""

    calibration: Variance | None = None

    def calibrated(self, calibration: Variance) -> "Gaussian":
        """Implements `Local.calibrated`."""
        return Gaussian(calibration)

    def deviations(
        self, x: Float[Tensor, "n d"], path: Path, at: Node, stage: int, pairs: int, noise: Noise
    ) -> Float[Tensor, "n pairs d"]:
        """Implements `Local.deviations`."""
        assert self.calibration is not None, "a Gaussian posterior is calibrated before sampling"
        scale = self.calibration.variance(path, at.t) ** 0.5
        return noise.normal(stage, Draw.PARTICLES, (pairs, x.shape[1]), x.dtype) * scale


def gaussian(calibration: Calibration | None = None) -> Gaussian:
    """The Gaussian posterior; see `Gaussian`."""
    return Gaussian(calibration)
