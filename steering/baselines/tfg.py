"""Training-free guidance (Ye et al. 2024, arXiv:2409.15761, alg. 1): DPS, LGD-MC and guidance at D are its corners.

With f(x) = log 1/K sum_k exp(r(x + c xi_k) / beta), D of the state x_t and c as in `lgd_mc`,

    variance guidance   rho (sigma^2 / alpha) grad_{x_t} f(D)                        through the network
    mean guidance       `iterations` of  x_0 <- x_0 + mu c^2 / iterations grad f(x_0),  from x_0 = D

and D becomes x_0 plus the former. On data of unit variance and for linear rewards rho + mu = 1 is Doob's transform. The
paper's strengths also vary with t and it repeats every step `N_recur` times from fresh noise; here once.
"""

import math
from collections.abc import Generator, Hashable

import torch
from jaxtyping import Float
from torch import Tensor

from steering.baselines.guidance import Correction
from steering.baselines.lgd_mc import LgdMc, posterior_scale, smoothed
from steering.errors import SteeringError
from steering.methods.gradients import pullback
from steering.numerics.noise import Draw, Noise
from steering.plans.plan import Stage
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem
from steering.targets.target import Reward


class Tfg(LgdMc):
    """See the module; `draws` rows of the reward's gradient per gradient of f, one vector-Jacobian product if rho > 0.

    Args:
        rho: strength >= 0 of variance guidance.
        mu: strength >= 0 of mean guidance.
        iterations: gradient steps of mean guidance, at least 1.
        draws, spread: as in `LgdMc`.
    """

    def __init__(
        self,
        reward: Reward,
        beta: float = 1.0,
        *,
        rho: float = 0.5,
        mu: float = 0.5,
        iterations: int = 2,
        draws: int = 2,
        spread: float = 0.5,
        key: Hashable = None,
    ) -> None:
        super().__init__(reward, beta, draws=draws, spread=spread, key=key)
        for name, strength in (("rho", rho), ("mu", mu)):
            if not 0 <= strength < math.inf:
                raise SteeringError(f"{name}: expected a finite number >= 0, got {strength!r}")
        if not isinstance(iterations, int) or iterations < 1:
            raise SteeringError(f"iterations: expected an integer >= 1, got {iterations!r}")
        self.rho, self.mu, self.iterations = rho, mu, iterations

    def correct(
        self,
        problem: Problem,
        stage: Stage,
        x: Float[Tensor, "n *event"],
        denoised: Float[Tensor, "n *event"],
        noise: Noise,
    ) -> Generator[Rows, Tensor, Correction]:
        """Implements `Guidance.correct`."""
        at, c = stage.update.at, posterior_scale(stage.update.at)
        xi = noise.normal(stage.index, Draw.LOOK_AHEAD, (self.draws // 2, *problem.event), x.dtype)
        xi = xi * (self.spread * c)
        log_h, gradient = yield from smoothed(self.target, denoised, xi)
        correction = torch.zeros_like(denoised)
        if self.rho:
            score = yield from pullback(problem, stage.denoise, x, gradient)
            correction = score * (self.rho * at.sigma**2 / at.alpha)
        length, moved = self.mu * c**2 / self.iterations, torch.zeros_like(denoised)
        for i in range(self.iterations if self.mu else 0):
            if i:
                _, gradient = yield from smoothed(self.target, denoised + moved, xi)
            moved = moved + gradient * length
        return correction + moved, log_h
