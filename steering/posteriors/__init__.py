"""Approximations q(x_0 | x_t) that need no network call.

`bank(samples)` uses stored samples of the model while the posterior is wide and hands over to a local posterior,
`gaussian` or `neighbours`, when too few of them are near.
"""

from steering.posteriors.bank import Bank, bank
from steering.posteriors.gaussian import Gaussian, gaussian
from steering.posteriors.local import Local, Variance
from steering.posteriors.neighbours import Neighbours, neighbours
from steering.posteriors.points import Cloud

POSTERIORS = ("bank", "gaussian", "neighbours")

__all__ = [
    "POSTERIORS",
    "Bank",
    "Cloud",
    "Gaussian",
    "Local",
    "Neighbours",
    "Variance",
    "bank",
    "gaussian",
    "neighbours",
]
