"""Diagnostics of any served score by forward calls alone: no training data, no derivative of the network.

Every diagnostic is a generator of network rows and returns a small report. Most take clean samples `data` [n, *event],
usually the model's own, and look at their noised states at a path time t, which has to lie inside the path's range.
"""

from steering.diagnostics.conservativity import Asymmetry, Loops, asymmetry, loops
from steering.diagnostics.fokker_planck import FokkerPlanck, drift, residual
from steering.diagnostics.gauge import Gauge, gauge
from steering.diagnostics.intrinsic_dimension import IntrinsicDimension, intrinsic_dimension
from steering.diagnostics.kinetic import Kinetic, kinetic
from steering.diagnostics.ode_sde_gap import Distance, compare, ode_sde_gap
from steering.diagnostics.straightness import Straightness, straightness

__all__ = [
    "Asymmetry", "Distance", "FokkerPlanck", "Gauge", "IntrinsicDimension", "Kinetic", "Loops", "Straightness",
    "asymmetry", "compare", "drift", "gauge", "intrinsic_dimension", "kinetic", "loops", "ode_sde_gap", "residual",
    "straightness",
]  # fmt: skip
