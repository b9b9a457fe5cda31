"""What the methods share that add a correction to every denoised estimate, and so work with any solver."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steering.noise import Noise
from steering.plan import Stage
from steering.rows import Rows
from steering.sampler import Drawing, Guided, Problem, Report, guided
from steering.targets import Reward, Target

Correction = tuple[Tensor, Tensor | None]
"""What to add to D [n, *event], and estimates of log E[exp(r(x_0) / beta) | x_t] [n], where the method has any."""


class Guidance(ABC):
    """Steering toward p(x_0) exp(reward(x_0) / beta) by a correction of D, of (sigma^2 / alpha) times a score.

    Args:
        reward: scores candidates, [B, *event] -> [B].
        beta: temperature > 0; smaller is stronger.
        key: identifies the reward, see `Target`.
    """

    needs_gradients = True

    def __init__(self, reward: Reward, beta: float = 1.0, *, key: Hashable = None) -> None:
        self.target = Target(reward, beta, key=key)

    @property
    def reward(self) -> Reward:
        """Implements `Steering.reward`."""
        return self.target.reward

    @property
    def name(self) -> str:
        """Implements `Steering.name`."""
        return self.target.name

    @property
    def width(self) -> int:
        """Implements `Steering.width`."""
        return 1

    def draw(self, problem: Problem, noise: Noise, x_init: Tensor | None) -> Drawing:
        """Implements `Steering.draw`."""
        return guided(problem, noise, self.prepare(problem), x_init)

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
class Corrected:
    """A `Guidance`, prepared: implements `Tilt`."""

    method: Guidance
    problem: Problem

    def start_shift(self) -> None:
        return None

    def steer(self, stage: Stage, x: Tensor, denoised: Tensor, noise: Noise) -> Generator[Rows, Tensor, Guided]:
        correction, log_h = yield from self.method.correct(self.problem, stage, x, denoised, noise)
        # a correction of 0 must leave even the sign of a zero alone
        return Guided(torch.where(correction == 0, denoised, denoised + correction), log_h=log_h)

    def finish(self, x: Tensor, report: Report) -> Generator[Rows, Tensor, None]:
        report.rewards = yield from self.method.target.score(x)
