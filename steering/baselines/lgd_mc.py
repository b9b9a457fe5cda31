"""Loss-guided diffusion by Monte Carlo (Song et al. 2023, ICML, "Loss-guided diffusion models for plug-and-play
controllable generation", eq. 9).

    grad_x log h(x_t) ~ grad_x log 1/K sum_k exp(r(D(x_t) + c xi_k) / beta),   c^2 = sigma^2 / (alpha^2 + sigma^2)

c^2 is the variance of x_0 given x_t for data of unit variance; `spread` multiplies c. Without spread it is DPS.
"""

import math
from collections.abc import Generator, Hashable

import torch
from jaxtyping import Float
from torch import Tensor

from steering.baselines.guidance import Correction, Guidance
from steering.errors import SteeringError
from steering.methods.gradients import pullback, reward_gradient
from steering.numerics.noise import Draw, Noise
from steering.numerics.weights import softmax
from steering.plans.plan import Node, Stage
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem
from steering.targets.target import Reward, Target


class LgdMc(Guidance):
    """See the module; one vector-Jacobian product of the network and `draws` of the reward a stage.

    Args:
        draws: K, even, at least 2: xi are antithetic.
        spread: factor >= 0 of c.
    """

    def __init__(
        self, reward: Reward, beta: float = 1.0, *, draws: int = 8, spread: float = 1.0, key: Hashable = None
    ) -> None:
        super().__init__(reward, beta, key=key)
        if not isinstance(draws, int) or draws < 2 or draws % 2:
            raise SteeringError(f"draws: expected an even integer >= 2, got {draws!r}")
        if not 0 <= spread < math.inf:
            raise SteeringError(f"spread: expected a finite number >= 0, got {spread!r}")
        self.draws, self.spread = draws, spread

    @property
    def held(self) -> int:
        """Implements `Steering.held`."""
        return self.draws

    def correct(
        self,
        problem: Problem,
        stage: Stage,
        x: Float[Tensor, "n *event"],
        denoised: Float[Tensor, "n *event"],
        noise: Noise,
    ) -> Generator[Rows, Tensor, Correction]:
        """Implements `Guidance.correct`."""
        at = stage.update.at
        xi = noise.normal(stage.index, Draw.LOOK_AHEAD, (self.draws // 2, *problem.event), x.dtype)
        log_h, gradient = yield from smoothed(self.target, denoised, xi * (self.spread * posterior_scale(at)))
        score = yield from pullback(problem, stage.denoise, x, gradient)
        return score * (at.sigma**2 / at.alpha), log_h


def posterior_scale(at: Node) -> float:
    """c: the standard deviation of x_0 given x_t for data of unit variance."""
    return at.sigma / math.hypot(at.alpha, at.sigma)


def smoothed(
    target: Target, x: Float[Tensor, "n *event"], deviations: Float[Tensor, "n k *event"]
) -> Generator[Rows, Tensor, tuple[Float[Tensor, " n"], Float[Tensor, "n *event"]]]:
    """log of the mean of exp(r / beta) over x +- deviations, and its gradient in x."""
    n, k = deviations.shape[:2]
    candidates = x[:, None] + torch.cat([deviations, -deviations], dim=1)
    rewards, gradients = yield from reward_gradient(target, candidates.flatten(0, 1))
    logs, gradients = target.log_weight(rewards).reshape(n, 2 * k), gradients.reshape(candidates.shape)
    weights = softmax(torch.where((logs > -torch.inf).any(dim=1, keepdim=True), logs, 0.0))
    gradient = torch.zeros_like(x)
    for j in range(2 * k):  # one after another: a reduction's bits would depend on the batch
        gradient = gradient + gradients[:, j] * weights[:, j].reshape(-1, *(1 for _ in x.shape[1:]))
    return torch.logsumexp(logs, dim=1) - math.log(2 * k), gradient / target.beta
