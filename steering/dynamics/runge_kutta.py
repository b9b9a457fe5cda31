"""Embedded explicit Runge-Kutta pairs: each trajectory at its own time and with its own step.

All trajectories that are not at their last time try a step at once, whatever their times and steps, and those that are
there ask for no more rows. The last slope of a step is the first of the next. Times asked for are interpolated from a
step's slopes, so they do not shorten steps.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import torch

from steering.dynamics.asking import Ask, Program, Reply
from steering.dynamics.controller import Controller, scale
from steering.dynamics.course import Course, Dense, Floats, Index, moved
from steering.dynamics.events import Watch
from steering.dynamics.problem import Problem, Solver
from steering.dynamics.solution import Solution, Status
from steering.dynamics.tableaus import BOSH3, DOPRI5, TSIT5, Pair

TRIES = 50
"""Steps in a row that are not kept, each at most 0.9 and mostly a tenth of the one before."""
ROUNDING = 4 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Attempt:
    """What a step of m rows came to: the state at its end, its error, and its slopes, the first included."""

    after: Floats
    error: Floats
    slopes: list[Floats]


def solving(pair: Pair) -> Callable[[Problem], Program[Solution]]:
    controller = Controller(pair.order)

    def program(problem: Problem) -> Program[Solution]:
        course, n = Course(problem), problem.n
        watch = Watch(course)
        rtol, atol = problem.rtol.numpy(), problem.atol.numpy()
        active = yield from course.begin()
        slope, step, before = np.zeros_like(course.y), np.zeros(n), np.ones(n)
        tries = np.zeros(n, np.int64)
        attempt = _by_graph if problem.step_graph else _by_stages
        if len(active):
            slope[active] = yield from course.field(active, course.t[active], course.y[active])
            broken = ~np.isfinite(slope[active]).all(axis=1)
            course.fail(active[broken], Status.NOT_FINITE)
            active = active[~broken]
        if len(active):
            yield from watch.begin(active)
            active = active[course.status[active] == Status.OK]
            step[active] = yield from _first(course, controller, active, slope[active])
        while len(active):
            t, y, sign = course.t[active], course.y[active], course.sign[active]
            left = np.abs(course.ends[active] - t)
            length = step[active]
            arrives = length >= left * (1 - 1e-12)
            length = np.where(arrives, left, length)
            signed = sign * length
            tried = yield from attempt(pair, course, active, t, signed, y, slope[active])
            allowed = scale(rtol[active], atol[active], y, tried.after)
            ratio, bad = controller.judge(tried.error, allowed)
            kept = ratio <= 1
            step[active] = length * controller.factor(ratio, before[active])
            course.accepted[active] += kept
            course.rejected[active] += ~kept
            tries[active] = np.where(kept, 0, tries[active] + 1)
            if kept.any():
                rows = np.flatnonzero(kept)
                onward = active[rows]
                end = np.where(arrives, course.ends[active], t + signed)[rows]
                after = tried.after[rows]
                dense = _dense(pair, y, signed, tried.slopes, rows)
                slope[onward] = tried.slopes[-1][rows]
                before[onward] = ratio[rows]
                stop = yield from watch.passed(onward, signed[rows], end, after, dense)
                if stop is not None:
                    end[stop.rows] = t[rows][stop.rows] + stop.part * signed[rows][stop.rows]
                    after[stop.rows] = dense(stop.rows, stop.part)
                yield from course.reach(onward, end, after, dense, signed[rows])
            lost = ~kept & ((step[active] <= ROUNDING * np.abs(t)) | (tries[active] >= TRIES))
            course.fail(active[lost & bad], Status.NOT_FINITE)
            course.fail(active[lost & ~bad], Status.STEP_TOO_SMALL)
            going = active[(course.status[active] == Status.OK) & (course.count[active] < course.times.shape[1])]
            over = course.accepted[going] + course.rejected[going] >= problem.max_steps
            course.fail(going[over], Status.MAX_STEPS)
            active = going[~over]
        return course.solution()

    return program


def _first(course: Course, controller: Controller, active: Index, slope: Floats) -> Generator[Ask, Reply, Floats]:
    """The length of the first step: what the problem says, or by one row more."""
    problem = course.problem
    if problem.dt0 is not None:
        return problem.dt0.numpy()[active]
    t, y = course.t[active], course.y[active]
    allowed = scale(problem.rtol.numpy()[active], problem.atol.numpy()[active], y)
    guess = controller.guess(y, slope, allowed, np.abs(course.ends[active] - t))
    signed = course.sign[active] * guess
    there = yield from course.field(active, t + signed, y + signed[:, None] * slope)
    return controller.first(guess, slope, there, allowed)


def _by_stages(
    pair: Pair, course: Course, index: Index, t: Floats, step: Floats, y: Floats, slope: Floats
) -> Generator[Ask, Reply, Attempt]:
    """A step by rows of the field, one a stage."""
    slopes, after = [slope], y
    for c, row in zip(pair.c, pair.a, strict=True):
        after = moved(y, step, slopes, row)
        slopes.append((yield from course.field(index, t + c * step, after)))
    return Attempt(after, moved(np.zeros_like(y), step, slopes, pair.error), slopes)


def _by_graph(
    pair: Pair, course: Course, index: Index, t: Floats, step: Floats, y: Floats, slope: Floats
) -> Generator[Ask, Reply, Attempt]:
    """A step by one row of the step graph, which does in its own precision what `_by_stages` does here."""
    course.evaluations[index] += len(pair.c)
    first = torch.from_numpy(slope).reshape(len(slope), *course.problem.state)
    reply = yield course.ask("step", index, t, y, h=torch.from_numpy(step), k1=first)
    slopes = reply["slopes"].reshape(len(index), len(pair.c), course.size).numpy()
    return Attempt(
        y + course.flat(reply["dz"]), course.flat(reply["error"]), [slope, *(slopes[:, i] for i in range(len(pair.c)))]
    )  # fmt: skip


def _dense(pair: Pair, y: Floats, step: Floats, slopes: list[Floats], rows: Index) -> Dense:
    """The interpolant of the steps of `rows`: y + h sum_i b_i(part) k_i."""

    def at(which: Index, part: Floats) -> Floats:
        weights, row = pair.weights(part), rows[which]
        total = slopes[0][row] * weights[:, :1]
        for i in range(1, len(slopes)):
            total = total + slopes[i][row] * weights[:, i : i + 1]
        return y[row] + step[row][:, None] * total

    return at


def _solver(name: str, pair: Pair, about: str) -> Solver:
    return Solver(
        name=name, kinds=("ode",), order=pair.order, adaptive=True, events=True, about=about, program=solving(pair)
    )  # fmt: skip


SOLVERS = (
    _solver("tsit5", TSIT5, "order 5 with steps of its own, six rows each (Tsitouras 2011): the default"),
    _solver("dopri5", DOPRI5, "order 5 with steps of its own, six rows each (Dormand & Prince 1980)"),
    _solver(
        "bosh3", BOSH3, "order 3 with steps of its own, three rows each (Bogacki & Shampine 1989): rough tolerances"
    ),
)
