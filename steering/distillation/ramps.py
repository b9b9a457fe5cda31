"""Numbers that change over an optimisation: times, guidance scales, clips."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from steering.errors import PlanError, choose

Shape = Literal["linear", "sqrt"]
SHAPES = get_args(Shape)


@dataclass(frozen=True)
class Ramp:
    """From `first` at iteration 0 to `last` at iteration `i_end`, and `last` from there on.

    Attributes:
        shape: "linear", or "sqrt": first + (last - first) sqrt(i / i_end), which leaves `first` at once and comes to
            `last` slowly.
    """

    first: float
    last: float
    i_end: int
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise PlanError(choose("shape", self.shape, SHAPES))
        if isinstance(self.i_end, bool) or not isinstance(self.i_end, int) or self.i_end < 1:
            raise PlanError(f"i_end: expected a whole number of iterations of at least 1, got {self.i_end!r}")
        for name in ("first", "last"):
            if not math.isfinite(getattr(self, name)):
                raise PlanError(f"ramp: expected a finite number as its {name}, got {getattr(self, name)!r}")

    def at(self, iteration: int) -> float:
        """The number at an iteration."""
        share = min(iteration / self.i_end, 1.0)
        return self.first + (self.last - self.first) * (math.sqrt(share) if self.shape == "sqrt" else share)
