"""Twisted diffusion sampler (Wu et al. 2023, arXiv:2306.17775, alg. 1): `Smc` whose chains move by DPS.

Twisting functions exp(r(D(x_t)) / beta) guide every step by their gradient, and weights make up for what they miss.
"""

from collections.abc import Hashable

from steering.baselines.dps import Dps
from steering.methods.smc import Smc
from steering.targets.target import Reward


def tds(
    reward: Reward,
    beta: float = 1.0,
    *,
    particles: int = 64,
    keep: int | None = None,
    tempering: float = 0.0,
    key: Hashable = None,
) -> Smc:
    """Populations of `particles` chains; network and reward must be differentiable. `tempering` makes it DAS-like."""
    inner = Dps(reward, beta, key=key)
    return Smc(reward, beta, inner=inner, population=particles, keep=keep, tempering=tempering, key=key)
