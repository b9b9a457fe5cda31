"""Base class of methods that add a correction to every denoised estimate, and so work with any solver."""

from abc import abstractmethod
from collections.abc import Generator, Hashable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steering.methods.aimed import Aimed
from steering.numerics.noise import Noise
from steering.plans.plan import Stage
from steering.sampling.rows import Rows
from steering.sampling.sampler import Guided, Problem, Report, Tilt, Tilting
from steering.targets.target import Reward, Target

Correction = tuple[Tensor, Tensor | None]
"""What to add to D [n, *event], and estimates of log E[exp(r(x_0) / beta) | x_t] [n], where the method has any."""


class Guidance(Aimed, Tilting):
    """Steering toward p(x_0) exp(reward(x_0) / beta) by a correction of D, of (sigma^2 / alpha) times a score.

    Args:
        reward: scores candidates, [B, *event] -> [B].
        beta: temperature > 0; smaller is stronger.
        key: identifies the reward, see `Target`.
    """

    def __init__(self, reward: Reward, beta: float = 1.0, *, key: Hashable = None) -> None:
        super().__init__(Target(reward, beta, key=key))

    @property
    def needs_gradients(self) -> bool:
        """Implements `Steering.needs_gradients`."""
        return True

    def prepare(self, problem: Problem) -> Generator[Rows, Tensor, "Corrected"]:
        """The tilt for one problem; nothing is measured."""
        yield from ()
        return Corrected(self, problem)

    @abstractmethod
    def correct(
        self,
        problem: Problem,
        stage: Stage,
        x: Float[Tensor, "n *event"],
        denoised: Float[Tensor, "n *event"],
        noise: Noise,
    ) -> Generator[Rows, Tensor, Correction]:
        """The correction at one stage."""


@dataclass
class Corrected(Tilt):
    """A `Guidance`, prepared."""

    method: Guidance
    problem: Problem

    def steer(self, stage: Stage, x: Tensor, denoised: Tensor, noise: Noise) -> Generator[Rows, Tensor, Guided]:
        if stage.update.at.alpha == 0:  # the state says nothing of the data there, nor of the reward
            return Guided(denoised, log_h=torch.full((len(x),), torch.nan, dtype=x.dtype))
        correction, log_h = yield from self.method.correct(self.problem, stage, x, denoised, noise)
        # a correction of 0 must leave even the sign of a zero alone
        return Guided(torch.where(correction == 0, denoised, denoised + correction), log_h=log_h)

    def finish(self, x: Tensor, report: Report) -> Generator[Rows, Tensor, None]:
        report.rewards = yield from self.method.target.score(x)
