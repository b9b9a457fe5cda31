"""The exact tilt of a mixture, as a steering method: what others are measured against."""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.numerics.noise import Noise
from steering.plans.plan import Stage
from steering.problems.mixtures import Quadratic
from steering.sampling.rows import Rows
from steering.sampling.sampler import Guided, Problem, Tilt, Tilting


@dataclass(frozen=True, eq=False)
class Exact(Tilting, Tilt):
    """D_h of a mixture under a linear or quadratic reward, in closed form: it asks for no rows."""

    law: Quadratic

    def prepare(self, problem: Problem) -> Generator[Rows, Tensor, Tilt]:
        """Implements `Tilting.prepare`."""
        yield from ()
        return self

    def steer(self, stage: Stage, x: Tensor, denoised: Tensor, noise: Noise) -> Generator[Rows, Tensor, Guided]:
        """Implements `Tilt.steer`."""
        yield from ()
        at = stage.update.at
        alpha, sigma = (torch.full((len(x),), c, dtype=torch.float64) for c in (at.alpha, at.sigma))
        return Guided(self.law.denoised(x, alpha, sigma))
