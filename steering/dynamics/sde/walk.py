"""What every scheme of SDEs shares: nodes dt apart, the Brownian path's increments between them, times in between."""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from steering.dynamics.asking import Ask, Program, Reply
from steering.dynamics.brownian import BrownianPaths
from steering.dynamics.course import Course, Floats, Index, Mask
from steering.dynamics.problem import Problem
from steering.dynamics.sde.laws import Amplitude, States, amplitude
from steering.dynamics.solution import Solution, Status
from steering.errors import NetworkError, PlanError

ROUNDING = 1e-9
"""A time asked for is a node if it is as near to one as this part of dt."""
_AHEAD = 2**13  # numbers of paths that are made at once: a few milliseconds
_MOST_AHEAD = 256  # steps, likewise


@dataclass(frozen=True, eq=False)
class Slopes:
    """f and g of rows at states `at`: of most schemes where the rows are."""

    at: States
    drift: States
    diffusion: Amplitude

    def __getitem__(self, rows: Tensor) -> "Slopes":
        return Slopes(self.at[rows], self.drift[rows], self.diffusion[rows])


Evaluate = Callable[[Tensor, States], Generator[Ask, Reply, Slopes]]
"""Slopes of the rows of a step at times [m] and states [m, *state]."""


@dataclass(frozen=True, eq=False)
class Step:
    """A step of some trajectories, from (t, y) over h, negative where time falls, with the path's increment dw."""

    problem: Problem
    t: Float64[Tensor, " m"]
    y: States
    slopes: Slopes
    h: Float64[Tensor, " m"]
    dw: Float64[Tensor, "m k"]


class Scheme(Protocol):
    """A one-step method: the state after a step, and the slopes there if it comes to know them."""

    def __call__(self, step: Step, evaluate: Evaluate) -> Generator[Ask, Reply, tuple[States, Slopes | None]]: ...


def walking(scheme: Scheme, check: Callable[[Problem], None]) -> Callable[[Problem], Program[Solution]]:
    """The program of a scheme. `check` raises `PlanError` for problems that the scheme does not solve."""

    def program(problem: Problem) -> Program[Solution]:
        check(problem)
        return (yield from _Walk(problem, scheme).run())

    return program


class _Walk:
    def __init__(self, problem: Problem, scheme: Scheme) -> None:
        self.problem, self.scheme = problem, scheme
        self.course = Course(problem)
        self.nodes = _Nodes(problem, self.course)

    def run(self) -> Program[Solution]:
        course, problem = self.course, self.problem
        active = yield from course.begin()
        y = problem.y0.clone()
        known: Slopes | None = None
        while len(active):
            t, end = self.nodes.step(active)
            rows, start = torch.from_numpy(active), torch.from_numpy(t)
            if known is None:
                known = yield from self._evaluate(active)(start, y[rows])
            self.nodes.draw(active, known.diffusion.sources)
            yield from self._between(active, t, end, y, known)
            going = course.count[active] < course.times.shape[1]
            if not going.all():  # the others' last times lay before this step's end
                active, t, end, known = active[going], t[going], end[going], known[torch.from_numpy(going)]
                rows, start = torch.from_numpy(active), torch.from_numpy(t)
            if not len(active):
                break
            step = Step(problem, start, y[rows], known, torch.from_numpy(end - t), self.nodes.increments(active))
            after, known = yield from self.scheme(step, self._evaluate(active))
            finite = _finite(after)
            course.fail(active[~finite], Status.NOT_FINITE)
            moved, kept = active[finite], torch.from_numpy(finite)
            course.accepted[moved] += 1
            y[torch.from_numpy(moved)] = after[kept]
            told = self.nodes.told(moved, end[finite])
            yield from course.reach(moved, told, _flat(after[kept]), None)
            self.nodes.advance(moved)
            going = course.count[moved] < course.times.shape[1]
            over = going & (course.accepted[moved] >= problem.max_steps)
            course.fail(moved[over], Status.MAX_STEPS)
            active = moved[going & ~over]
            if known is not None:
                known = known[kept][torch.from_numpy(going & ~over)]
        return course.solution()

    def _between(self, active: Index, t: Floats, end: Floats, y: Tensor, known: Slopes) -> Generator[Ask, Reply, None]:
        """Save states at times asked for between the nodes: each a step of its own from the earlier node."""
        course = self.course
        while True:
            position = np.minimum(course.count[active], course.times.shape[1] - 1)
            wanted = course.times[active, position]
            due = (course.count[active] < course.times.shape[1]) & self.nodes.before(active, wanted, end)
            if not due.any():
                return
            rows, which = active[due], torch.from_numpy(due)
            start, at = torch.from_numpy(t[due]), torch.from_numpy(wanted[due])
            dw = self.nodes.increments_to(rows, at)
            states = y[torch.from_numpy(rows)]
            step = Step(self.problem, start, states, known[which], at - start, dw)
            after, _ = yield from self.scheme(step, self._evaluate(rows))
            finite = _finite(after)
            course.fail(rows[~finite], Status.NOT_FINITE)
            course.count[rows[~finite]] = course.times.shape[1]  # it ends here
            yield from course.reach(rows[finite], wanted[due][finite], _flat(after[torch.from_numpy(finite)]), None)

    def _evaluate(self, active: Index) -> Evaluate:
        def evaluate(t: Tensor, y: States) -> Generator[Ask, Reply, Slopes]:
            course = self.course
            course.evaluations[active] += 1
            reply = yield Ask("field", torch.from_numpy(active), y, t)
            for role in ("drift", "diffusion"):
                if role not in reply:
                    raise NetworkError(f"field: expected drift and diffusion of an sde, got no {role}")
            diffusion = amplitude(self.problem.noise, reply["diffusion"].to(torch.float64), y)
            return Slopes(y, reply["drift"].to(torch.float64).reshape(y.shape), diffusion)

        return evaluate


class _Nodes:
    """Times of steps of all trajectories, and their Brownian paths at these."""

    def __init__(self, problem: Problem, course: Course) -> None:
        self.problem, self.course = problem, course
        self.dt: Floats | None = None if problem.dt is None else problem.dt.numpy()
        self.number = np.zeros(problem.n, np.int64)  # of each trajectory's node
        self.reach = course.ends  # the last time at which a path is needed
        if self.dt is not None:
            steps = np.abs(course.ends - course.t) / self.dt
            last = np.round(steps)
            on_grid = (np.abs(steps - last) <= ROUNDING) & (last > 0)
            self.reach = np.where(on_grid, course.t + course.sign * self.dt * last, course.ends)
        self.paths: BrownianPaths | None = None
        self.ahead: Tensor | None = None  # W [n, s, k] at nodes from `first` [n] on
        self.first = np.zeros(problem.n, np.int64)

    def at(self, active: Index, ahead: int) -> Floats:
        """The present node of each, and those that follow it [m, ahead + 1]."""
        number = self.number[active, None] + np.arange(ahead + 1)
        if self.dt is None:
            times: Floats = self.course.times[active[:, None], np.minimum(number, self.course.times.shape[1] - 1)]
            return times
        step = self.course.sign[active] * self.dt[active]
        return self.course.times[active, :1] + step[:, None] * number

    def step(self, active: Index) -> tuple[Floats, Floats]:
        if self.dt is None:  # equal times are no steps
            self.number[active] = self.course.count[active] - 1
        t, end = self.at(active, 1).T
        return t.copy(), end.copy()

    def advance(self, moved: Index) -> None:
        self.number[moved] += 1

    def before(self, active: Index, wanted: Floats, end: Floats) -> Mask:
        """Which of the times wanted come before the steps' ends, and are not these."""
        if self.dt is None:
            return np.zeros(len(active), np.bool_)
        return np.asarray((end - wanted) * self.course.sign[active] > ROUNDING * self.dt[active])

    def told(self, moved: Index, end: Floats) -> Floats:
        """The steps' ends, or the times asked for that are as good as these."""
        position = np.minimum(self.course.count[moved], self.course.times.shape[1] - 1)
        wanted = self.course.times[moved, position]
        if self.dt is None:
            return wanted
        return np.where(np.abs(wanted - end) <= ROUNDING * self.dt[moved], wanted, end)

    def draw(self, active: Index, sources: int) -> None:
        """Have the paths ready at both ends of the next step."""
        problem = self.problem
        if self.paths is None:
            start, end = torch.from_numpy(self.course.times[:, 0]), torch.from_numpy(self.reach)
            self.paths = BrownianPaths(problem.seed, problem.indices, sources, start, end)
        if self.paths.size != sources:
            raise NetworkError(f"diffusion: expected {self.paths.size} sources of noise again, got {sources}")
        if self.ahead is not None and bool((self.number[active] - self.first[active] < self.ahead.shape[1] - 1).all()):
            return
        steps = max(1, min(_MOST_AHEAD, _AHEAD // (problem.n * sources)))
        ahead = torch.zeros(problem.n, steps + 1, sources, dtype=torch.float64)
        rows, limit, sign = torch.from_numpy(active), self.reach[active, None], self.course.sign[active, None]
        times = sign * np.minimum(sign * self.at(active, steps), sign * limit)  # a last node after the end is not used
        place = self.number[active] - self.first[active]
        if self.ahead is None or bool((place >= self.ahead.shape[1]).any()):  # the latter past equal times
            ahead[rows, 0] = self.paths.at(rows, torch.from_numpy(times[:, :1]))[:, 0]
        else:
            ahead[rows, 0] = self.ahead[rows, torch.from_numpy(place)]
        ahead[rows, 1:] = self.paths.at(rows, torch.from_numpy(times[:, 1:]))
        self.ahead = ahead
        self.first[active] = self.number[active]

    def increments(self, active: Index) -> Tensor:
        place = torch.from_numpy(self.number[active] - self.first[active])
        rows = torch.from_numpy(active)
        assert self.ahead is not None
        return self.ahead[rows, place + 1] - self.ahead[rows, place]

    def increments_to(self, active: Index, t: Float64[Tensor, " m"]) -> Tensor:
        """From the present nodes to times after them."""
        place = torch.from_numpy(self.number[active] - self.first[active])
        rows = torch.from_numpy(active)
        assert self.ahead is not None
        assert self.paths is not None
        return self.paths.at(rows, t[:, None])[:, 0] - self.ahead[rows, place]


def _finite(y: States) -> Mask:
    return np.asarray(np.isfinite(_flat(y)).all(axis=1))


def _flat(y: States) -> Floats:
    flat: Floats = y.reshape(len(y), math.prod(y.shape[1:])).numpy()
    return flat


def additive(problem: Problem) -> bool:
    """Whether g does not depend on y, so that both calculi mean one equation."""
    return problem.noise == "additive" or problem.form == "langevin"


def only_plain(name: str) -> Callable[[Problem], None]:
    def check(problem: Problem) -> None:
        if problem.form in ("linear", "geometric"):
            raise PlanError(f"solver {name!r}: expected form plain or langevin, got {problem.form}: see euler_maruyama")

    return check
