"""Approximations q(x_0 | x_t) that need no network call.

`bank(samples)` uses stored samples of the model while the posterior is wide and hands over to a local posterior,
`gaussian` or `neighbours`, when too few of them are near.
"""

from steering.posteriors.bank import Bank, bank
from steering.posteriors.gaussian import Gaussian, gaussian
from steering.posteriors.local import Local
from steering.posteriors.neighbours import Neighbours, neighbours

POSTERIORS = ("bank", "gaussian", "neighbours")

__all__ = ["POSTERIORS", "Bank", "Gaussian", "Local", "Neighbours", "bank", "gaussian", "neighbours"]
