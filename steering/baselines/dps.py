"""Diffusion posterior sampling (Chung et al. 2022, arXiv:2209.14687), with any reward for the log-likelihood.

    grad_x log h(x_t) ~ grad_x r(D(x_t)) / beta = J^T grad r(D) / beta,   J = dD / dx_t

by eq. 10, E[exp(r(x_0) / beta) | x_t] ~ exp(r(E[x_0 | x_t]) / beta). It is added to the score, so to D goes
(sigma^2 / alpha) times it. Exact where r is linear and the posterior's covariance does not depend on x_t.
"""

from collections.abc import Generator

from jaxtyping import Float
from torch import Tensor

from steering.baselines.guidance import Correction, Guidance
from steering.methods.gradients import pullback, reward_gradient
from steering.numerics.noise import Noise
from steering.plans.plan import Stage
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem


class Dps(Guidance):
    """See the module; one vector-Jacobian product of the network and one of the reward a stage."""

    def correct(
        self,
        problem: Problem,
        stage: Stage,
        x: Float[Tensor, "n *event"],
        denoised: Float[Tensor, "n *event"],
        noise: Noise,
    ) -> Generator[Rows, Tensor, Correction]:
        """Implements `Guidance.correct`."""
        at, beta = stage.update.at, self.target.beta
        rewards, gradient = yield from reward_gradient(self.target, denoised)
        score = yield from pullback(problem, stage.denoise, x, gradient)
        return score * (at.sigma**2 / at.alpha / beta), self.target.log_weight(rewards)
