"""Chooses the local posterior that fits a bank, by measurement."""

from dataclasses import dataclass

from steering.paths import Path
from steering.posteriors.calibration import Calibration
from steering.posteriors.gaussian import Gaussian
from steering.posteriors.local import Local
from steering.posteriors.mixture import HELD_OUT, MOST_DIMENSIONS, Mixture, mixture
from steering.posteriors.neighbours import Neighbours
from steering.posteriors.points import Cloud

FAITHFUL = 1.5
"""A fit is used if its error is at most this factor times the network's at every noise level."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The local posterior for a bank and why it was chosen, with the mixture it was or might have been."""

    local: Local
    why: str
    mixture: Mixture | None = None

    @classmethod
    def of(cls, cloud: Cloud, path: Path, calibration: Calibration) -> "Chosen":
        """A mixture of Gaussians where one denoises held-out samples nearly as well as the network at every noise
        level; otherwise neighbours for images (events of two or more axes) and a Gaussian for vectors."""
        samples = cloud.samples
        plain: Local = Neighbours(cloud, calibration) if samples.ndim > 2 else Gaussian(calibration)
        name = "neighbours" if samples.ndim > 2 else "gaussian"
        d = samples[0].numel()
        if d > MOST_DIMENSIONS or len(samples) < 2 * HELD_OUT:
            few = f"{len(samples)} samples are too few" if d <= MOST_DIMENSIONS else f"{d} dimensions are too many"
            return cls(plain, f"local posterior {name}: {few} for a mixture")
        fitted = mixture(samples, calibration)
        held_out = samples[::HELD_OUT]
        curve = zip(calibration.t, calibration.mse, strict=True)
        worst = max((fitted.error(held_out, path, t) / mse for t, mse in curve if mse > 0), default=1.0)
        said = f"a mixture's error is {worst:.2f} times the network's where it is worst"
        if worst > FAITHFUL:
            return cls(plain, f"local posterior {name}: {said}, more than {FAITHFUL:g}", fitted)
        return cls(fitted, f"local posterior mixture: {said}", fitted)


def automatic(cloud: Cloud, path: Path, calibration: Calibration) -> tuple[Local, str]:
    """The local posterior for a bank's samples, and why; see `Chosen.of`."""
    choice = Chosen.of(cloud, path, calibration)
    return choice.local, choice.why
