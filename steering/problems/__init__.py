"""Problems with closed forms: Gaussian mixtures, their exact denoisers, posteriors and tilted laws; distances."""

from steering.problems.distances import EnergyDistance, energy_distance, sliced_wasserstein, wasserstein
from steering.problems.exact import Exact
from steering.problems.mixtures import GaussianMixture, Posterior, Quadratic
from steering.problems.projected import Projected
from steering.problems.strength import at_nats

__all__ = [
    "EnergyDistance",
    "Exact",
    "GaussianMixture",
    "Posterior",
    "Projected",
    "Quadratic",
    "at_nats",
    "energy_distance",
    "sliced_wasserstein",
    "wasserstein",
]
