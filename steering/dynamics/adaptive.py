"""The loop of solvers that choose their steps: each trajectory at its own time and with its own step.

All trajectories that are not at their last time try a step at once, whatever their times and steps, and those that are
there ask for no more rows. The last slope of a step is the first of the next. Times asked for are interpolated from a
step's slopes, so they do not shorten steps.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from steering.dynamics.asking import Ask, Program, Reply
from steering.dynamics.controller import Controller, scale
from steering.dynamics.course import Course, Dense, Floats, Index, Mask
from steering.dynamics.events import Watch
from steering.dynamics.problem import Problem
from steering.dynamics.solution import Solution, Status

TRIES = 50
"""Steps in a row that are not kept; most are a tenth of the one before."""
ROUNDING = 4 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Attempt:
    """What steps of m rows came to.

    Attributes:
        after: the states at their ends.
        error: the estimated error of these.
        slopes: of all stages, the first and the last included.
        again: 0 for steps that can be judged by their error; for others, whose equations were not solved, the factor of
            the step to try next.
    """

    after: Floats
    error: Floats
    slopes: list[Floats]
    again: Floats | None = None


class Method(Protocol):
    """What makes a step; one is made for every problem, and may remember its trajectories."""

    controller: Controller

    def rate(self, index: Index, t: Floats, y: Floats) -> Generator[Ask, Reply, Floats]:
        """dy/dt [m, d]."""
        ...

    def attempt(
        self, index: Index, t: Floats, step: Floats, y: Floats, slope: Floats
    ) -> Generator[Ask, Reply, Attempt]:
        """Try a step (negative where time falls) from each (t, y)."""
        ...

    def kept(self, index: Index, kept: Mask) -> None:
        """Which of the steps last tried were kept."""
        ...

    def weights(self, part: Floats) -> Floats:
        """The slopes' weights [m, s] in the interpolant y + h sum_i weights_i k_i at these parts of a step."""
        ...


def adaptive(make: Callable[[Course], Method]) -> Callable[[Problem], Program[Solution]]:
    def program(problem: Problem) -> Program[Solution]:
        course, n = Course(problem), problem.n
        watch, method = Watch(course), make(course)
        rtol, atol = problem.rtol.numpy(), problem.atol.numpy()
        active = yield from course.begin()
        slope, step, before = np.zeros_like(course.y), np.zeros(n), np.ones(n)
        tries = np.zeros(n, np.int64)
        if len(active):
            slope[active] = yield from method.rate(active, course.t[active], course.y[active])
            broken = ~np.isfinite(slope[active]).all(axis=1)
            course.fail(active[broken], Status.NOT_FINITE)
            active = active[~broken]
        if len(active):
            yield from watch.begin(active)
            active = active[course.status[active] == Status.OK]
            step[active] = yield from _first(course, method, active, slope[active])
        while len(active):
            t, y, sign = course.t[active], course.y[active], course.sign[active]
            left = np.abs(course.ends[active] - t)
            length = step[active]
            arrives = length >= left * (1 - 1e-12)
            length = np.where(arrives, left, length)
            signed = sign * length
            tried = yield from method.attempt(active, t, signed, y, slope[active])
            ratio, bad = method.controller.judge(tried.error, scale(rtol[active], atol[active], y, tried.after))
            factor = method.controller.factor(ratio, before[active])
            kept, unsolved = ratio <= 1, np.zeros(len(active), np.bool_)
            if tried.again is not None:
                unsolved = tried.again > 0
                kept &= ~unsolved
                factor = np.where(unsolved, tried.again, factor)
            method.kept(active, kept)
            step[active] = length * factor
            course.accepted[active] += kept
            course.rejected[active] += ~kept
            tries[active] = np.where(kept, 0, tries[active] + 1)
            if kept.any():
                rows = np.flatnonzero(kept)
                onward = active[rows]
                end = np.where(arrives, course.ends[active], t + signed)[rows]
                after = tried.after[rows]
                dense = _dense(method, y, signed, tried.slopes, rows)
                slope[onward] = tried.slopes[-1][rows]
                before[onward] = ratio[rows]
                stop = yield from watch.passed(onward, signed[rows], end, after, dense)
                if stop is not None:
                    end[stop.rows] = t[rows][stop.rows] + stop.part * signed[rows][stop.rows]
                    after[stop.rows] = dense(stop.rows, stop.part)
                yield from course.reach(onward, end, after, dense, signed[rows])
            lost = ~kept & ((step[active] <= ROUNDING * np.abs(t)) | (tries[active] >= TRIES))
            course.fail(active[lost & bad], Status.NOT_FINITE)
            course.fail(active[lost & ~bad & unsolved], Status.NOT_CONVERGED)
            course.fail(active[lost & ~bad & ~unsolved], Status.STEP_TOO_SMALL)
            going = active[(course.status[active] == Status.OK) & (course.count[active] < course.times.shape[1])]
            over = course.accepted[going] + course.rejected[going] >= problem.max_steps
            course.fail(going[over], Status.MAX_STEPS)
            active = going[~over]
        return course.solution()

    return program


def _first(course: Course, method: Method, active: Index, slope: Floats) -> Generator[Ask, Reply, Floats]:
    """The length of the first step: what the problem says, or by one row more."""
    problem = course.problem
    if problem.dt0 is not None:
        return problem.dt0.numpy()[active]
    t, y = course.t[active], course.y[active]
    allowed = scale(problem.rtol.numpy()[active], problem.atol.numpy()[active], y)
    guess = method.controller.guess(y, slope, allowed, np.abs(course.ends[active] - t))
    signed = course.sign[active] * guess
    there = yield from method.rate(active, t + signed, y + signed[:, None] * slope)
    return method.controller.first(guess, slope, there, allowed)


def _dense(method: Method, y: Floats, step: Floats, slopes: list[Floats], rows: Index) -> Dense:
    """The interpolant of the steps of `rows`."""

    def at(which: Index, part: Floats) -> Floats:
        weights, row = method.weights(part), rows[which]
        total = slopes[0][row] * weights[:, :1]
        for i in range(1, len(slopes)):
            total = total + slopes[i][row] * weights[:, i : i + 1]
        return y[row] + step[row][:, None] * total

    return at
