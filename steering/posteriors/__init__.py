"""Approximations q(x_0 | x_t), most of them without a network call.

`bank(samples)` uses stored samples of the model while the posterior is wide and hands over to a local posterior when
too few of them are near: `mixture` (vectors), `neighbours` (images) or `gaussian`. `record` makes draws of any law,
conditional and guided ones too, and `residuals` uses what their estimates got wrong. `rollout` asks the network.
"""

from steering.posteriors.automatic import Chosen, automatic
from steering.posteriors.bank import Bank, TiltedBank, bank
from steering.posteriors.draws import Draws, record
from steering.posteriors.gaussian import Gaussian, gaussian
from steering.posteriors.local import Candidates, Local, Variance
from steering.posteriors.mixture import Mixture, mixture
from steering.posteriors.neighbours import Neighbours, neighbours
from steering.posteriors.points import Cloud
from steering.posteriors.residuals import Residuals, fitting, residuals
from steering.posteriors.rollout import Rollout, rollout
from steering.posteriors.union import Union

POSTERIORS = ("bank", "gaussian", "mixture", "neighbours", "rollout")
"""By name."""

__all__ = [
    "POSTERIORS", "Bank", "Candidates", "Chosen", "Cloud", "Draws", "Gaussian", "Local", "Mixture", "Neighbours",
    "Residuals", "Rollout", "TiltedBank", "Union", "Variance", "automatic", "bank", "fitting", "gaussian", "mixture",
    "neighbours", "record", "residuals", "rollout",
]  # fmt: skip
