"""How straight the probability flow is, over all samples of a `steering.reflow` coupling (Liu et al. 2022, eq. 8)."""

import math
from dataclasses import dataclass

from steering.flow.reflow import Coupling


@dataclass(frozen=True)
class Straightness:
    """Of trajectories in rectified-flow coordinates; all are 0 for straight lines at even speed.

    Attributes:
        straightness: E int |v - c|^2 dtau over the transport cost, c the chord.
        curvature: E int |dv/dtau| dtau over the root mean square length of the chord.
        one_step_error: of one Euler step from noise to data, root mean square over that of the data.
    """

    straightness: float
    curvature: float
    one_step_error: float


def straightness(coupling: Coupling) -> Straightness:
    """No rows: the coupling has all of them."""
    cost = float(coupling.transport_cost.mean())
    size = float(coupling.data.to(coupling.straightness.dtype).flatten(1).square().sum(-1).mean())
    return Straightness(
        straightness=float(coupling.straightness.mean()) / cost,
        curvature=float(coupling.curvature.mean()) / math.sqrt(cost),
        one_step_error=math.sqrt(float(coupling.one_step_error.mean()) / size),
    )
