"""Stiff linear parts: dy/dt = f(t, y) + L y, of which L y is implicit and f explicit.

    (1 - h gamma L) z_i = y + h sum_{j < i} (explicit_ij f_j + implicit_ij L z_j),   f_i = f(t + c_i h, z_i)

ARK4(3)6L[2]SA (Kennedy & Carpenter 2003, Applied Numerical Mathematics 44, 139), order 4. The field is f alone: six
rows a step, no Jacobian, and steps that the fastest rates of L do not bound: diffusion beside reactions, for example.
"""

from collections.abc import Generator

import numpy as np

from steering.dynamics.adaptive import Attempt, adaptive
from steering.dynamics.asking import Ask, Reply
from steering.dynamics.controller import Controller
from steering.dynamics.course import Course, Floats, Index, Mask, moved
from steering.dynamics.newton import inverted, times
from steering.dynamics.problem import Solver
from steering.dynamics.tableaus import ARK4, GAMMA


class Imex:
    """Steps of the method."""

    def __init__(self, course: Course) -> None:
        assert course.problem.linear is not None  # checked where it was posed
        n, d = len(course.t), course.size
        self.course, self.linear = course, course.problem.linear.numpy()
        self.controller = Controller(4, integral=1.0, proportional=0.0, grow=5.0, steady=1.2)
        self.inverse, self.step = np.zeros((n, d, d)), np.full(n, np.nan)
        self.first = np.zeros((n, d))
        """f at the present state."""
        self.due = np.ones(n, np.bool_)
        """It is not known."""

    def rate(self, index: Index, t: Floats, y: Floats) -> Generator[Ask, Reply, Floats]:
        explicit = yield from self.course.field(index, t, y)
        return explicit + times(self.linear, y)

    def attempt(
        self, index: Index, t: Floats, step: Floats, y: Floats, slope: Floats
    ) -> Generator[Ask, Reply, Attempt]:
        due = self.due[index]
        if due.any():
            self.first[index[due]] = yield from self.course.field(index[due], t[due], y[due])
            self.due[index] = False
        other = self.step[index] != step
        if other.any():
            which = index[other]
            self.step[which] = step[other]
            part = (step[other] * GAMMA)[:, None, None]
            self.inverse[which] = inverted(np.eye(self.course.size) - part * self.linear)
        inverse = self.inverse[index]
        explicit, implicit = [self.first[index]], [times(self.linear, y)]
        for c, row, other_row in zip(ARK4.c, ARK4.explicit, ARK4.implicit, strict=True):
            stage = times(inverse, moved(moved(y, step, explicit, row), step, implicit, other_row))
            explicit.append((yield from self.course.field(index, t + c * step, stage)))
            implicit.append(times(self.linear, stage))
        slopes = [one + other for one, other in zip(explicit, implicit, strict=True)]
        after = moved(y, step, slopes, ARK4.b)
        return Attempt(after, moved(np.zeros_like(y), step, slopes, ARK4.error), slopes)

    def kept(self, index: Index, kept: Mask) -> None:
        self.due[index[kept]] = True

    def weights(self, part: Floats) -> Floats:
        return ARK4.weights(part)


SOLVERS = (
    Solver(
        name="imex4",
        kinds=("ode",),
        order=4,
        adaptive=True,
        events=True,
        matrices=True,
        linear=True,
        about="order 4, for dy/dt = f + L y with a stiff matrix L, which alone is implicit (Kennedy & Carpenter 2003)",
        program=adaptive(Imex),
    ),
)
