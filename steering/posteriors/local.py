"""The interface of local posteriors: candidates for x_0 around the denoised estimate."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from jaxtyping import Float
from torch import Tensor

from steering.numerics.noise import Noise
from steering.paths import Path
from steering.plans.plan import Stage
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem


class Variance(Protocol):
    """V(t), the mean squared error of D per dimension; `Calibration` and `Uncalibrated` are two."""

    def variance(self, path: Path, t: float) -> float: ...


@dataclass(frozen=True, eq=False)
class Candidates:
    """Draws of x_0 - D, given x_t.

    Attributes:
        deviations: [n, m, d].
        log_ratio: [n, m], log q(x_0 | x_t) less the log density each was drawn with, up to a constant of each row; None
            for draws of q itself whose second half is minus the first.
    """

    deviations: Float[Tensor, "n m d"]
    log_ratio: Float[Tensor, "n m"] | None = None

    @classmethod
    def pairs(cls, deviations: Float[Tensor, "n p d"]) -> Self:
        """Antithetic pairs, all of the + before all of the -."""
        return cls(torch.cat([deviations, -deviations], dim=1))

    @classmethod
    def centred(cls, drawn: Float[Tensor, "n m d"], scale: float = 1.0) -> Self:
        """Independent draws less their mean, which D is known better than, times `scale`."""
        m = drawn.shape[1]
        mean = drawn[:, 0]
        for k in range(1, m):  # one after another: a reduction's bits would depend on the batch
            mean = mean + drawn[:, k]
        deviations = (drawn - (mean / m)[:, None]) * scale
        return cls(deviations, torch.zeros(deviations.shape[:2], dtype=drawn.dtype))


class Local(Protocol):
    """An approximation of q(x_0 | x_t) about D."""

    @property
    def calibration(self) -> Variance | None:
        """V(t); None until it has been measured."""
        ...

    def calibrated(self, calibration: Variance) -> "Local":
        """The same posterior with this V(t)."""
        ...

    def draw(
        self, problem: Problem, stage: Stage, x: Tensor, centre: Tensor, pairs: int, noise: Noise
    ) -> Generator[Rows, Tensor, Candidates]:
        """2 * pairs candidates for each of the states x [n, d] at a stage, whose denoised estimates are `centre`.

        `problem` is that of these n samples. It may yield network rows of its own.
        """
        ...
