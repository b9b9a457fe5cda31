"""q(x_0 | x_t) about D with the shapes of nearby bank samples: particles move along the data, not in all directions.

The bank's posterior weights are tempered, softmax(T log N(x; alpha x_k, sigma^2 I)) with T in (0, 1], until about 40
samples share them; drawn samples are centred, scaled to a multiple of the calibrated variance, and added to D with
both signs.
"""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steering.numerics.noise import Draw, Noise
from steering.numerics.tiles import by_tiles
from steering.numerics.weights import draw_indices, effective_size, softmax
from steering.plans.plan import Stage
from steering.posteriors.calibration import Calibration
from steering.posteriors.local import Candidates, Variance
from steering.posteriors.points import Cloud
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem

NEIGHBOURHOOD = 40.0
# The calibrated variance is a mean over states: where the reward still has something to decide, the posterior is wider.
# Measured on 28x28 digits, labels 7 and 3 (mean rewards; the exact tilt's are -.086 and -.112): 1 gives -.858 and
# -1.28, 3 -.177 and -.195, 5 -.082 and -.112, 8 -.041 and -.054.
WIDENING = 5.0
BISECTIONS = 16


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Deviations of bank samples [K, *event] near x_t; without a `calibration` it is measured on first use."""

    cloud: Cloud
    calibration: Variance | None = None

    def calibrated(self, calibration: Variance) -> "Neighbours":
        """Implements `Local.calibrated`."""
        return Neighbours(self.cloud, calibration)

    def draw(
        self, problem: Problem, stage: Stage, x: Float[Tensor, "n d"], pairs: int, noise: Noise
    ) -> Generator[Rows, Tensor, Candidates]:
        """Implements `Local.draw`."""
        assert self.calibration is not None, "a neighbours posterior is calibrated before sampling"
        points = self.cloud.points(x.dtype)

        def neighbourhood(logits: Tensor) -> tuple[Tensor, Tensor]:
            weights = tempered(logits, NEIGHBOURHOOD)
            return weights, (weights * points.norms).sum(dim=1)

        logits = yield from points.logits(x, stage.update.at)
        weights, square = by_tiles(neighbourhood, logits)
        mean = yield from points.mean(weights)
        (square_of_mean,) = by_tiles(lambda tile: ((tile * tile).sum(dim=1),), mean)
        spread = (square - square_of_mean) / mean.shape[1]
        wanted = WIDENING * self.calibration.variance(problem.plan.path, stage.t)
        scale = torch.sqrt(torch.clamp(wanted / torch.clamp(spread, min=1e-12), max=1.0))
        chosen = draw_indices(weights, noise.uniform(stage.index, Draw.NEIGHBOURS, pairs))
        return Candidates.pairs((points.x[chosen] - mean[:, None]) * scale[:, None, None])


def tempered(logits: Float[Tensor, "n k"], size: float) -> Float[Tensor, "n k"]:
    """softmax(T logits), T in (0, 1] the largest with an effective size of at least `size`, by bisection in log T."""
    low = torch.full((len(logits), 1), -30.0, dtype=logits.dtype)
    high = torch.zeros_like(low)
    wide = effective_size(softmax(logits))[:, None] >= size
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = effective_size(softmax(logits * torch.exp2(middle)))[:, None] >= size
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return softmax(logits * torch.exp2(torch.where(wide, torch.zeros_like(low), low)))


def neighbours(samples: Float[Tensor, "k *event"], calibration: Calibration | None = None) -> Neighbours:
    """The neighbours posterior of at least two samples; see `Neighbours`."""
    if len(samples) < 2 or not bool(samples.isfinite().all()):
        raise ValueError(f"neighbours: expected two or more finite samples, got {list(samples.shape)}")
    return Neighbours(Cloud(samples), calibration)
