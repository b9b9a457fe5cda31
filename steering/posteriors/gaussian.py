"""q(x_0 | x_t) = N(D, V(t) I), V the calibrated mean squared error of D."""

from collections.abc import Generator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from steering.numerics.noise import Draw, Noise
from steering.plans.plan import Stage
from steering.posteriors.calibration import Calibration
from steering.posteriors.local import Candidates, Variance
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem


@dataclass(frozen=True)
class Gaussian:
    """Isotropic Gaussian about D; without a `calibration` it is measured on first use."""

    calibration: Variance | None = None

    def calibrated(self, calibration: Variance) -> "Gaussian":
        """Implements `Local.calibrated`."""
        return Gaussian(calibration)

    def draw(
        self,
        problem: Problem,
        stage: Stage,
        x: Float[Tensor, "n d"],
        centre: Float[Tensor, "n d"],
        pairs: int,
        noise: Noise,
    ) -> Generator[Rows, Tensor, Candidates]:
        """Implements `Local.draw`."""
        yield from ()
        assert self.calibration is not None, "a Gaussian posterior is calibrated before sampling"
        scale = self.calibration.variance(problem.plan.path, stage.t) ** 0.5
        return Candidates.pairs(noise.normal(stage.index, Draw.PARTICLES, (pairs, x.shape[1]), x.dtype) * scale)


def gaussian(calibration: Calibration | None = None) -> Gaussian:
    """The Gaussian posterior; see `Gaussian`."""
    return Gaussian(calibration)
