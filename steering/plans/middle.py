"""Plans that begin between noise and data: after some of their steps, or at a time."""

import math
from collections.abc import Sequence

from steering.errors import PlanError
from steering.paths import Path
from steering.plans.plan import Node
from steering.plans.units import LEAST

SLACK = 1e-5
"""Relative distance from the noisy end that is rounding, such as single precision's."""


def remaining(steps: int, strength: float) -> int:
    """The steps that are left of `steps` at a strength in (0, 1]: strength * steps, rounded down.

    Raises:
        PlanError: a strength out of range, or one that leaves no step.
    """
    if not 0 < strength <= 1:
        raise PlanError(f"strength: expected a number above 0 and up to 1, got {strength!r}")
    left = math.floor(strength * steps + 1e-9)  # .29 * 100 is 29
    if not left:
        raise PlanError(
            f"strength: expected at least 1 / steps, {1 / steps:g}, which leaves one step, got {strength:g}"
        )
    return left


def starting(path: Path, t: float, steps: int) -> Path:
    """The path from the time t to its end at the data; raises `PlanError` for a time outside, or without room."""
    if abs(t - path.t_max) <= SLACK * path.t_max:
        return path
    if not path.t_min < t < path.t_max:
        raise PlanError(f"start_t: expected a time above {path.t_min:g} and up to {path.t_max:g}, got {t:g}")
    if not float(path.log_snr(path.t_min) - path.log_snr(t)) >= LEAST * steps:
        raise PlanError(f"start_t: expected a time farther from {path.t_min:g}, with room for {steps} steps, got {t:g}")
    return path.between(path.t_min, t)


def rest(nodes: Sequence[Node], steps: int, left: int) -> tuple[Node, ...]:
    """The nodes of a plan of `steps` steps where `left` of them are left: from node number `steps - left` of its grid.

    A direct solver may have one node more before its grid, from which its first step is no step of the grid's.
    """
    skipped = steps - left
    before = int(skipped > 0 and len(nodes) > steps + 1 and nodes[0].alpha == 0)
    kept = tuple(nodes[skipped + before :])
    if len(kept) < 2:  # a placement that ends at t_min has one step less
        raise PlanError("strength: expected more, which leaves a step on this grid, got one that leaves none")
    return kept
