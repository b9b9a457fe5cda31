"""An implicit method for stiff fields, whose step follows the solution and not the field's fastest rate.

    z_i = y + h sum_{j < i} a_ij k_j + h gamma k_i,   k_i = f(t + c_i h, z_i),   y' = z_6

ESDIRK4(3)6L[2]SA, the implicit half of ARK4(3)6L[2]SA (Kennedy & Carpenter 2003, Applied Numerical Mathematics 44,
139): order 4, L-stable, the first stage explicit and the last at y'. Its interpolant is of order 3. A slope is had of
its stage, (z - base) / (h gamma), since the field would magnify what Newton's method leaves. The error is not damped by
(1 - h gamma J)^-1, as some do: steps then grow beyond what the interpolant can follow.
"""

from collections.abc import Generator

import numpy as np

from steering.dynamics.adaptive import Attempt, adaptive
from steering.dynamics.asking import Ask, Reply
from steering.dynamics.controller import Controller
from steering.dynamics.course import QUIET, Course, Floats, Index, Mask, moved
from steering.dynamics.newton import Newton
from steering.dynamics.problem import Solver
from steering.dynamics.tableaus import ARK4, GAMMA


@QUIET
def _slope(z: Floats, base: Floats, step: Floats) -> Floats:
    return (z - base) / (step * GAMMA)[:, None]


class Esdirk:
    """Steps of the method."""

    def __init__(self, course: Course) -> None:
        self.course = course
        self.controller = Controller(4, integral=1.0, proportional=0.0, grow=5.0, steady=1.2)
        self.newton = Newton(course, GAMMA, "drift")

    def rate(self, index: Index, t: Floats, y: Floats) -> Generator[Ask, Reply, Floats]:
        return (yield from self.course.field(index, t, y))

    def attempt(
        self, index: Index, t: Floats, step: Floats, y: Floats, slope: Floats
    ) -> Generator[Ask, Reply, Attempt]:
        yield from self.newton.prepare(index, t, y, step)
        slopes, after = [slope], y.copy()
        solved, broken = np.ones(len(index), np.bool_), np.zeros(len(index), np.bool_)
        for c, row in zip(ARK4.c, ARK4.implicit, strict=True):
            live = np.flatnonzero(solved)
            slopes.append(np.zeros_like(y))
            if not len(live):
                continue
            base = moved(y, step, slopes, row)[live]
            start = moved(base, step[live] * GAMMA, [slopes[-2][live]], (1.0,))
            stage = yield from self.newton.solve(index[live], (t + c * step)[live], step[live], base, start, y[live])
            slopes[-1][live] = _slope(stage.z, base, step[live])
            after[live] = stage.z
            solved[live], broken[live] = stage.solved, stage.broken
        error = moved(np.zeros_like(y), step, slopes, ARK4.error)
        error[broken] = np.nan
        return Attempt(after, error, slopes, self.newton.again(index, solved))

    def kept(self, index: Index, kept: Mask) -> None:
        self.newton.kept(index, kept)

    def weights(self, part: Floats) -> Floats:
        return ARK4.weights(part)


SOLVERS = (
    Solver(
        name="esdirk4",
        kinds=("ode",),
        order=4,
        adaptive=True,
        events=True,
        matrices=True,
        about="order 4, implicit, for stiff fields (Kennedy & Carpenter 2003): the Jacobian of d values by d + 1 rows",
        program=adaptive(Esdirk),
    ),
)
