"""What comes of solving: states at the times asked for, and how each trajectory ended."""

from dataclasses import dataclass
from enum import IntEnum

from jaxtyping import Float64, Int32, Int64
from torch import Tensor


class Status(IntEnum):
    """How a trajectory ended. One that fails leaves the others alone."""

    OK = 0
    """It reached its last time."""
    EVENT = 1
    """A terminal event ended it."""
    MAX_STEPS = 2
    """It had taken `max_steps` steps, kept or not, before its last time."""
    STEP_TOO_SMALL = 3
    """Its step fell to the spacing of floating-point numbers: a singularity, or too fine a tolerance."""
    NOT_FINITE = 4
    """Its first state or the field there was NaN or infinite, or steps of every size led to such states."""
    NOT_CONVERGED = 5
    """An iteration stopped short of its tolerance."""


@dataclass(frozen=True, eq=False)
class Solution:
    """n trajectories at T times each.

    Attributes:
        y: states at t_eval; NaN after an event, and from where a trajectory failed.
        status: of `Status`.
        evaluations: of the field; a row of a step graph counts as its stages. Rows of event networks are not counted.
        accepted, rejected: its steps.
        t_event, y_event, event: the first K events of each in the order of time: when, where, and which of the
            problem's events, counted from 0; NaN and -1 where there were fewer.
        t_last, y_last: where it came to: its last time, its terminal event, or the last step it kept.
        residual: of fixed points, the norm of what is left.
        warnings: what was done otherwise than asked.
    """

    y: Float64[Tensor, "n T *state"]
    status: Int32[Tensor, " n"]
    evaluations: Int64[Tensor, " n"]
    accepted: Int64[Tensor, " n"]
    rejected: Int64[Tensor, " n"]
    t_event: Float64[Tensor, "n K"]
    y_event: Float64[Tensor, "n K *state"]
    event: Int64[Tensor, "n K"]
    t_last: Float64[Tensor, " n"]
    y_last: Float64[Tensor, "n *state"]
    residual: Float64[Tensor, " n"] | None = None
    warnings: tuple[str, ...] = ()
