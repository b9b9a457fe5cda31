"""How long the next step is: each trajectory its own, from the error of its last.

    E = rms(error / (atol + rtol max(|y|, |y'|))),   a step is kept where E <= 1
    next step = step * clip(0.9 E^(-0.7 / q) E_before^(0.4 / q), 0.2, 10),   q: the order of y'

a proportional-integral controller (Gustafsson 1991; Hairer & Wanner 1996, section IV.2), and the plain one after a step
that is not kept. Powers are Python's own, number by number: vectors of them may round by place.
"""

from dataclasses import dataclass

import numpy as np

from steering.dynamics.course import QUIET, Floats, Mask, rms

LEAST_ERROR, LEAST_BEFORE, INFINITE = 1e-10, 1e-4, 1e10


def power(values: Floats, exponent: float) -> Floats:
    return np.array([value**exponent for value in values.tolist()])


@QUIET
def scale(rtol: Floats, atol: Floats, y: Floats, after: Floats | None = None) -> Floats:
    """The error allowed of each coordinate [m, d]."""
    size = np.abs(y) if after is None else np.maximum(np.abs(y), np.abs(after))
    return atol[:, None] + rtol[:, None] * size


@QUIET
def relative(values: Floats, allowed: Floats) -> Floats:
    """Root mean square of values over what is allowed [m]. Without atol nothing is allowed of a number that is 0; one
    that stays 0 is as good as any."""
    return rms(np.where(values == 0, 0.0, values / allowed))


@dataclass(frozen=True)
class Controller:
    """How steps are chosen.

    Attributes:
        order: q of the solution that goes on.
        integral, proportional: the exponents' numerators: 0.7 and 0.4 above; 1 and 0 are the plain controller.
        steady: a step is not lengthened by less than this factor.
    """

    order: int
    integral: float = 0.7
    proportional: float = 0.4
    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 10.0
    shrink_rejected: float = 0.1
    steady: float = 1.0

    @QUIET
    def judge(self, error: Floats, allowed: Floats) -> tuple[Floats, Mask]:
        """E of steps, in LEAST_ERROR..INFINITE, and which of them were not finite."""
        ratio = relative(error, allowed)
        bad = ~np.isfinite(ratio)
        ratio[bad] = INFINITE
        return np.clip(ratio, LEAST_ERROR, INFINITE), bad

    def factor(self, ratio: Floats, before: Floats) -> Floats:
        """Next step over this one, where E is `ratio` and that of the last step kept was `before`."""
        kept = self.safety * power(ratio, -self.integral / self.order)
        if self.proportional:
            kept *= power(np.maximum(before, LEAST_BEFORE), self.proportional / self.order)
        again = self.safety * power(ratio, -1 / self.order)
        longer = np.clip(kept, self.shrink, self.grow)
        longer[(longer > 1) & (longer < self.steady)] = 1.0
        return np.where(ratio <= 1, longer, np.clip(again, self.shrink_rejected, 1.0))

    @QUIET
    def guess(self, y: Floats, slope: Floats, allowed: Floats, most: Floats) -> Floats:
        """A step so short that Euler's method is all but exact (Hairer, Norsett & Wanner 1993, section II.4)."""
        size, speed = relative(y, allowed), relative(slope, allowed)
        known = (size >= 1e-5) & (speed >= 1e-5) & np.isfinite(size) & np.isfinite(speed)
        step = np.where(known, 0.01 * size / speed, 1e-6 * most)
        return np.where(step > 0, np.minimum(step, most), most)  # 0 if it is too small for a float64

    @QUIET
    def first(self, guess: Floats, slope: Floats, there: Floats, allowed: Floats) -> Floats:
        """The first step, from the slopes at the start and at the end of Euler's step of length `guess`, which is tried
        itself where they are too large to tell."""
        bend = relative(there - slope, allowed) / guess
        worst = np.maximum(relative(slope, allowed), np.where(np.isfinite(bend), bend, np.inf))
        still = worst <= 1e-15
        reach = power(0.01 / np.where(still, 1.0, worst), 1 / self.order)
        step = np.minimum(100 * guess, np.where(still, guess * 1000, reach))
        return np.where(np.isfinite(worst), step, guess)
