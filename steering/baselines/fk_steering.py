"""Feynman-Kac steering (Singhal et al. 2025, arXiv:2501.06848): `Smc` by the plan's steps, a population a sample."""

from collections.abc import Hashable
from typing import Literal

from steering.methods.smc import Smc
from steering.targets.target import Reward


def fk_steering(
    reward: Reward,
    beta: float = 1.0,
    *,
    particles: int = 16,
    keep: int = 1,
    potential: Literal["difference", "max", "sum"] = "difference",
    every: int = 1,
    threshold: float | None = None,
    key: Hashable = None,
) -> Smc:
    """Each sample is drawn from `particles` chains of its own, and takes no other network rows.

    The paper: 1 / beta of 2 to 10, 4 particles, intermediate rewards at every 20th of 100 steps, and the particle of
    the highest reward (`BestOf`) instead of a weighted draw.
    """
    return Smc(
        reward, beta, threshold=threshold, population=particles, keep=keep, potential=potential, every=every, key=key
    )
