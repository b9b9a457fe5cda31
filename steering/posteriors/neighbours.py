"""q(x_0 | x_t) about D with the shapes of nearby bank samples: particles move along the data, not in all directions.

The bank's posterior weights are tempered, softmax(T log N(x; alpha x_k, sigma^2 I)) with T in (0, 1], until about 40
samples share them; drawn samples are centred, scaled to a multiple of the calibrated variance, and added to D with
both signs.
"""

import math
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
TOLERANCE = 1e-3
"""How far the effective size of tempered weights may lie above what is asked for, as a part of it."""
LEAST_LOG_T, USUAL_SLOPE = -21.0, -4.0
MOST_STEPS = 40


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Deviations of bank samples [K, *event] near x_t; without a `calibration` it is measured on first use."""

    cloud: Cloud
    calibration: Variance | None = None

    def calibrated(self, calibration: Variance) -> "Neighbours":
        """Implements `Local.calibrated`."""
        return Neighbours(self.cloud, calibration)

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
    """softmax(T logits), T in (0, 1] the largest with an effective size of at least `size`, to `TOLERANCE`.

    The logarithm of the effective size is nearly a straight line in log T: the secant method finds T in four or five
    steps, halving where it would leave the bracket. A row that is done stays as it is while others are not.
    """
    plain = softmax(logits)
    done = wide = effective_size(plain) >= size
    if bool(wide.all()):
        return plain
    log_t = last = _first_guess(logits, size)
    low, high = torch.full_like(log_t, LEAST_LOG_T), torch.zeros_like(log_t)
    slope = torch.full_like(log_t, USUAL_SLOPE)
    beyond = torch.zeros_like(log_t)
    for step in range(MOST_STEPS):
        weights = softmax(logits * log_t.exp()[:, None])
        excess = (effective_size(weights) / size).log() - TOLERANCE / 2
        done = done | (excess.abs() <= TOLERANCE / 2)
        if bool(done.all()):
            break
        low, high = torch.where(excess > 0, log_t, low), torch.where(excess > 0, high, log_t)
        if step:
            secant = (excess - beyond) / (log_t - last)
            slope = torch.where(secant < 0, secant, USUAL_SLOPE)
        then = log_t - excess / slope
        then = torch.where((then > low) & (then < high), then, (low + high) / 2)
        last, beyond, log_t = log_t, excess, torch.where(done, log_t, then)
    return torch.where(wide[:, None], plain, weights)


def _first_guess(logits: Float[Tensor, "m k"], size: float) -> Float[Tensor, " m"]:
    """log T, at most 0, that leaves `size` effective samples if the logits are normally distributed."""
    from_best = logits - logits.amax(dim=1, keepdim=True)
    mean = from_best.mean(dim=1)
    variance = (from_best * from_best).mean(dim=1) - mean * mean
    wanted = max(math.log(logits.shape[1] / size), TOLERANCE)
    return (0.5 * (wanted / variance).log()).nan_to_num(nan=LEAST_LOG_T).clamp(LEAST_LOG_T, 0.0)


def neighbours(samples: Float[Tensor, "k *event"], calibration: Calibration | None = None) -> Neighbours:
    """The neighbours posterior of at least two samples; see `Neighbours`."""
    if len(samples) < 2 or not bool(samples.isfinite().all()):
        raise ValueError(f"neighbours: expected two or more finite samples, got {list(samples.shape)}")
    return Neighbours(Cloud(samples), calibration)
