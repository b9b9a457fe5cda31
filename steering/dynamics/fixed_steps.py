"""Explicit Runge-Kutta methods with fixed steps: the intervals between a trajectory's times, cut into equal parts.

Every time asked for is the end of a step, so nothing is interpolated. Where `dt` is given, parts are as long as it or
shorter; else an interval is one step.
"""

from collections.abc import Callable, Generator

import numpy as np

from steering.dynamics.asking import Ask, Program, Reply
from steering.dynamics.course import Course, Floats, Index, moved
from steering.dynamics.parts import by_parts, parts_of
from steering.dynamics.problem import Problem, Solver
from steering.dynamics.solution import Solution
from steering.dynamics.tableaus import EULER, HEUN, RK4, Tableau


def stepping(tableau: Tableau) -> Callable[[Problem], Program[Solution]]:
    def program(problem: Problem) -> Program[Solution]:
        course = Course(problem)
        active = yield from course.begin()

        def advance(index: Index, end: Floats, step: Floats) -> Generator[Ask, Reply, Floats]:
            t, y = course.t[index], course.y[index]
            slopes = [(yield from course.field(index, t, y))]
            for c, row in zip(tableau.c, tableau.a, strict=True):
                slopes.append((yield from course.field(index, t + c * step, moved(y, step, slopes, row))))
            return moved(y, step, slopes, tableau.b)

        parts = parts_of(problem, np.diff(course.times, axis=1))
        return (yield from by_parts(course, active, parts, advance))

    return program


def _solver(name: str, tableau: Tableau, about: str) -> Solver:
    return Solver(
        name=name, kinds=("ode",), order=tableau.order, adaptive=False, rows=len(tableau.b), about=about,
        program=stepping(tableau),
    )  # fmt: skip


SOLVERS = (
    _solver("euler", EULER, "Euler's method, steps of dt"),
    _solver("heun", HEUN, "the explicit trapezoidal rule, steps of dt"),
    _solver("rk4", RK4, "the classical method of order 4, steps of dt"),
)
