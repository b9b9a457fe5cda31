"""q(x_0 | x_t) about D by what D got wrong on the model's own draws, whatever the condition and guidance.

`Draws` hold, at every noise level, D_k and where draw k ended, x0_k. A state whose estimate is D has the candidates

    D + s (x0_k - D_k),   k drawn with weights softmax(-T |D - D_k|^2 / 2V),

T in (0, 1] the largest that lets enough draws share the weight, and centred, since D is known. The scale s belongs to
the level.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from steering.numerics.noise import Draw, Noise
from steering.numerics.tiles import Matrix, by_tiles
from steering.numerics.weights import draw_indices
from steering.plans.plan import Stage
from steering.posteriors.bank import Bank, bank
from steering.posteriors.draws import Draws
from steering.posteriors.gaussian import Gaussian
from steering.posteriors.local import Candidates, Local, Variance
from steering.posteriors.neighbours import NEIGHBOURHOOD, WIDENING, tempered
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem

SHARE = 6
"""At most one in this many draws shares a neighbourhood."""
NEARNESS = 1024
"""Most numbers by which estimates of images are compared: larger ones are averaged over squares of pixels."""
LEAST = 1e-18
IMAGES = math.sqrt(WIDENING)
"""The scale for images, measured on digits: label 3 from 256 draws has share .41 and distance 9.0 with 1, .84 and .93
with this.

The draws do not tell it: leaving one out, E[w | x] of the ten labels at a single stage is predicted best with 1
(squared error .61 at log-SNR -1.28, and .69 with this). What 1 lacks shows only over all stages.
"""


@dataclass(frozen=True, eq=False)
class Level:
    """One noise level of the draws, prepared to compare estimates by [p], pooled.

    Attributes:
        matrix: the draws' estimates [p, K].
        norms: half their squared lengths [K].
        to_next: half the products [K] with the next level's.
        width: mean square of x0_k - D_k, pooled.
        alike: correlation of the residuals with the next level's.
    """

    matrix: Matrix
    norms: Float[Tensor, " k"]
    to_next: Float[Tensor, " k"]
    width: float
    alike: float


@dataclass(frozen=True, eq=False)
class Residuals:
    """Residuals of `draws` near a state's estimate, times a `scale` for each of their levels.

    Attributes:
        nearness: most numbers by which estimates of images are compared.
    """

    draws: Draws
    scale: tuple[float, ...]
    nearness: int = NEARNESS

    @property
    def calibration(self) -> Variance:
        """V(t), as the draws have it."""
        return self.draws

    def calibrated(self, calibration: Variance) -> "Residuals":
        """Implements `Local.calibrated`: the draws are their own calibration."""
        return self

    @property
    def size(self) -> float:
        """Draws that share a neighbourhood."""
        return min(NEIGHBOURHOOD, len(self.draws.x0) / SHARE)

    def draw(
        self,
        problem: Problem,
        stage: Stage,
        x: Float[Tensor, "n d"],
        centre: Float[Tensor, "n d"],
        pairs: int,
        noise: Noise,
    ) -> Generator[Rows, Tensor, Candidates]:
        """Implements `Local.draw`: independent draws, centred."""
        log_snr = stage.update.at.log_snr
        i, w = self._between(log_snr)
        logits = yield from self._logits(centre, i, w)
        (weights,) = by_tiles(lambda tile: (tempered(tile, self.size),), logits)
        chosen = draw_indices(weights, noise.uniform(stage.index, Draw.NEIGHBOURS, 2 * pairs))
        shapes = self.draws.residuals
        deviations = shapes[i][chosen].to(x.dtype)
        if w:
            alike = self._levels[i].alike
            unit = 1 / math.sqrt((1 - w) ** 2 + w**2 + 2 * w * (1 - w) * alike)
            deviations = deviations * (unit * (1 - w)) + shapes[i + 1][chosen].to(x.dtype) * (unit * w)
        return Candidates.centred(deviations, self.draws.rms_at(log_snr) * self._scale_at(i, w))

    def _between(self, log_snr: float) -> tuple[int, float]:
        """`Draws.between`, as far as there are residuals."""
        i, w = self.draws.between(log_snr)
        last = len(self.draws.residuals) - 1
        return (last, 0.0) if i >= last else (i, w)

    def _scale_at(self, i: int, w: float) -> float:
        return self.scale[i] if not w else (1 - w) * self.scale[i] + w * self.scale[i + 1]

    def _logits(self, centre: Float[Tensor, "n d"], i: int, w: float) -> Generator[Rows, Tensor, Float[Tensor, "n k"]]:
        """-|D - D_k|^2 / 2V of all draws, up to a constant of each row, at the share w between two levels."""
        pooled = self._pooled(centre)
        here, next_one = self._levels[i], self._levels[min(i + 1, len(self._levels) - 1)]
        products = yield Rows.product(pooled, here.matrix)
        if not w:
            return (products - here.norms) / here.width
        products = products * (1 - w) + (yield Rows.product(pooled, next_one.matrix)) * w
        norms = here.norms * (1 - w) ** 2 + next_one.norms * w**2 + here.to_next * (2 * w * (1 - w))
        return (products - norms) / (here.width * (1 - w) + next_one.width * w)

    @cached_property
    def _levels(self) -> list[Level]:
        """All levels with residuals. Estimates are where draws ended, less what they had to go."""
        draws = self.draws
        ends = self._pooled(draws.x0.flatten(1))
        off = [
            self._pooled(each.to(torch.float32) * float(rms))
            for each, rms in zip(draws.residuals, draws.rms, strict=False)
        ]
        pooled = [ends - each for each in off]
        following = [*range(1, len(off)), len(off) - 1]
        return [
            Level(
                Matrix(each.T.contiguous()), each.square().sum(dim=1) / 2, (each * pooled[n]).sum(dim=1) / 2,
                max(float(off[k].square().mean()), LEAST),
                float((draws.residuals[k].to(torch.float32) * draws.residuals[n].to(torch.float32)).mean()),
            )
            for k, (each, n) in enumerate(zip(pooled, following, strict=True))
        ]  # fmt: skip

    def _pooled(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n p"]:
        """Flattened events in float32, averaged over squares of pixels if they are larger than `NEARNESS`."""
        event = self.draws.x0.shape[1:]
        factor = _factor(tuple(event), self.nearness)
        if factor == 1:
            return x.to(torch.float32)
        (pooled,) = by_tiles(
            lambda tile: (functional.avg_pool2d(tile.reshape(len(tile), *event), factor, ceil_mode=True).flatten(1),),
            x.to(torch.float32),
        )
        return pooled


def residuals(draws: Draws, nearness: int = NEARNESS) -> Residuals:
    """The residual posterior of a law's draws; see `Residuals`."""
    return Residuals(draws, (IMAGES if draws.x0.ndim > 2 else 1.0,) * len(draws.residuals), nearness)


def fitting(draws: Draws) -> Bank | Local:
    """The posterior that fits a law's draws: residuals for images (events of two or more axes); for vectors the draws
    as a bank, and a Gaussian of their V."""
    if draws.x0.ndim > 2:
        return residuals(draws)
    return bank(draws.x0).with_local(Gaussian(draws))


def _factor(event: tuple[int, ...], most: int) -> int:
    """The side of the squares that leave at most so many numbers of an event [channels, height, width]."""
    factor = 1
    if len(event) == 3:
        while event[0] * math.ceil(event[1] / factor) * math.ceil(event[2] / factor) > most and factor < min(event[1:]):
            factor *= 2
    return factor
