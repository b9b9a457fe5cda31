"""Explicit Runge-Kutta methods with fixed steps: the intervals between a trajectory's times, cut into equal parts.

Every time asked for is the end of a step, so nothing is interpolated. Where `dt` is given, parts are as long as it or
shorter; else an interval is one step.
"""

from collections.abc import Callable

import numpy as np

from steering.dynamics.asking import Program
from steering.dynamics.course import Course, Floats, moved
from steering.dynamics.problem import Problem, Solver
from steering.dynamics.solution import Solution, Status
from steering.dynamics.tableaus import EULER, HEUN, RK4, Tableau

ROUNDING = 1e-9
"""An interval that is a whole number of dt but for this part is cut into that number."""


def parts_of(problem: Problem, spans: Floats) -> Floats:
    """Into how many steps each interval between times [n, T - 1] is cut."""
    if problem.dt is None:
        return np.ones_like(spans)
    return np.maximum(np.ceil(np.abs(spans) / problem.dt.numpy()[:, None] * (1 - ROUNDING)), 1)


def stepping(tableau: Tableau) -> Callable[[Problem], Program[Solution]]:
    def program(problem: Problem) -> Program[Solution]:
        course = Course(problem)
        active = yield from course.begin()
        spans = np.diff(course.times, axis=1)
        parts = parts_of(problem, spans)
        done = np.zeros(problem.n)  # steps of the present interval
        while len(active):
            interval = course.count[active] - 1
            start, span, of = course.times[active, interval], spans[active, interval], parts[active, interval]
            nth = done[active] + 1
            t, y = course.t[active], course.y[active]
            end = np.where(nth == of, course.times[active, interval + 1], start + span * (nth / of))
            step = end - t
            slopes = [(yield from course.field(active, t, y))]
            for c, row in zip(tableau.c, tableau.a, strict=True):
                slopes.append((yield from course.field(active, t + c * step, moved(y, step, slopes, row))))
            after = moved(y, step, slopes, tableau.b)
            finite = np.isfinite(after).all(axis=1)
            course.fail(active[~finite], Status.NOT_FINITE)
            onward = active[finite]
            course.accepted[onward] += 1
            done[onward] = np.where(nth == of, 0, nth)[finite]
            yield from course.reach(onward, end[finite], after[finite])
            going = course.count[onward] < course.times.shape[1]
            over = going & (course.accepted[onward] >= problem.max_steps)
            course.fail(onward[over], Status.MAX_STEPS)
            active = onward[going & ~over]
        return course.solution()

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
