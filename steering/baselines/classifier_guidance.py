"""Classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233, alg. 2): eps - w sigma grad log p(y | x_t).

The reward is the classifier's log p(y | x), over beta. With `at` "state" its gradient is taken at the noisy state, as
in the paper, whose classifier was trained on noisy states: right for rewards that were too, far too strong for others.
With "denoised" it is taken at D and brought back without the network's Jacobian, whose value on data of unit variance,
alpha / (alpha^2 + sigma^2), stands in. In terms of D the two add

    w (sigma^2 / alpha) grad r(x_t) / beta,     w sigma^2 / (alpha^2 + sigma^2) grad r(D) / beta.
"""

import math
from collections.abc import Generator, Hashable
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from steering.baselines.guidance import Correction, Guidance
from steering.errors import SteeringError, choose
from steering.methods.gradients import reward_gradient
from steering.numerics.noise import Noise
from steering.plans.plan import Stage
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem
from steering.targets.target import Reward


class ClassifierGuidance(Guidance):
    """See the module; one vector-Jacobian product of the reward a stage, none of the network.

    Args:
        scale: w >= 0.
        at: "denoised" or "state".
    """

    def __init__(
        self,
        reward: Reward,
        beta: float = 1.0,
        *,
        scale: float = 1.0,
        at: Literal["state", "denoised"] = "denoised",
        key: Hashable = None,
    ) -> None:
        super().__init__(reward, beta, key=key)
        if not 0 <= scale < math.inf:
            raise SteeringError(f"scale: expected a finite number >= 0, got {scale!r}")
        if at not in ("state", "denoised"):
            raise SteeringError(choose("place of the gradient", at, ("state", "denoised")))
        self.scale, self.at = scale, at

    def correct(
        self,
        problem: Problem,
        stage: Stage,
        x: Float[Tensor, "n *event"],
        denoised: Float[Tensor, "n *event"],
        noise: Noise,
    ) -> Generator[Rows, Tensor, Correction]:
        """Implements `Guidance.correct`."""
        node, noisy = stage.update.at, self.at == "state"
        rewards, gradient = yield from reward_gradient(self.target, x if noisy else denoised)
        slope = node.sigma**2 / node.alpha if noisy else node.sigma**2 / (node.alpha**2 + node.sigma**2)
        return gradient * (self.scale * slope / self.target.beta), self.target.log_weight(rewards)
