"""Keeping a weighted sum of a state's numbers what it was: mass over cells of a map's steps, in float64.

What a network's step adds to the sum is taken out again after each step, and always against the first state's sum, so
that no error grows with the number of steps.
"""

import numpy as np
from numpy.typing import NDArray

from steering.dynamics.course import QUIET, sums

Floats = NDArray[np.float64]


class Conserved:
    """The sums of n trajectories' first states.

    Args:
        weights: [d], at least 0.
        y0: [n, d].
        multiplicative: all numbers of weight above 0 are multiplied by one factor, which keeps zeros and signs, but
            cannot mend a sum of 0; otherwise one number is added to them.
    """

    def __init__(self, weights: Floats, y0: Floats, multiplicative: bool) -> None:
        self.weights, self.multiplicative = weights, multiplicative
        self.counted = weights > 0
        self.whole = float(sums(weights[None])[0])
        self.sums = self._sum(y0)

    @QUIET
    def kept(self, index: NDArray[np.int64], y: Floats) -> Floats:
        """States [m, d] with the sums of trajectories `index`; not finite where a factor would be."""
        now, wanted = self._sum(y), self.sums[index]
        if self.multiplicative:
            factor = np.where(now == wanted, 1.0, wanted / now)
            return np.where(self.counted, y * factor[:, None], y)
        return np.where(self.counted, y + ((wanted - now) / self.whole)[:, None], y)

    def _sum(self, y: Floats) -> Floats:
        return sums(self.weights * y)
