"""What methods for fixed points share: rows of f, who has converged, one time after the other."""

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from steering.dynamics.asking import Ask, Program, Reply
from steering.dynamics.course import QUIET, Course, Floats, Index, Mask, rms
from steering.dynamics.problem import Problem
from steering.dynamics.solution import Solution, Status
from steering.errors import NetworkError

NO_ERROR = "residual is the size of f(z) - z: the error of z may be larger by 1 / (1 - L), L the spectral radius"
"""What every answer must say."""


class Method(Protocol):
    """An iteration of n trajectories, made anew for each time."""

    def next(self, index: Index, z: Floats, f: Floats) -> Floats:
        """Where trajectories `index` look next, having seen f at z, [m, d] each."""
        ...


Make = Callable[[Problem, int], Method]
"""From a problem and the numbers of a state."""


def searching(make: Make) -> Callable[[Problem], Program[Solution]]:
    """The program of a method."""

    def program(problem: Problem) -> Program[Solution]:
        search = Search(problem)
        active = yield from search.begin()
        while len(active):
            method = make(problem, search.course.size)
            yield from _iterated(search, method, active)
            active = yield from search.settled(active)
        return search.solution()

    return program


def _iterated(search: "Search", method: Method, active: Index) -> Generator[Ask, Reply, None]:
    """Iterate until each trajectory has converged or failed."""
    tries = 0
    while len(active):
        f, going = yield from search.measured(active)
        tries += 1
        if tries >= search.problem.max_steps:
            search.course.fail(active[going], Status.NOT_CONVERGED)
            return
        active, f = active[going], f[going]
        if len(active):
            search.z[active] = method.next(active, search.z[active], f)


class Search:
    """n trajectories, each at its present time.

    Attributes:
        z: where each is.
        residual: root mean square of f(z) - z where it was last measured.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.course = Course(problem)
        self.z = self.course.y.copy()
        self.residual = np.full(problem.n, np.nan)
        self.rtol, self.atol = problem.rtol.numpy()[:, None], problem.atol.numpy()[:, None]
        self.time = self.course.t.copy()

    def begin(self) -> Generator[Ask, Reply, Index]:
        """Who has a first state."""
        finite = np.isfinite(self.z).all(axis=1)
        everyone = np.arange(self.problem.n)
        self.course.fail(everyone[~finite], Status.NOT_FINITE)
        yield from ()
        return everyone[finite]

    def measured(self, active: Index) -> Generator[Ask, Reply, tuple[Floats, Mask]]:
        """f(z) of trajectories [m, d], and which of them go on; statuses of those that fail are set."""
        course = self.course
        course.evaluations[active] += 1
        course.accepted[active] += 1
        reply = yield course.ask("field", active, self.time[active], self.z[active])
        if "next" not in reply:
            raise NetworkError(f"field: expected next of a fixed point, got {', '.join(reply)}")
        f = course.flat(reply["next"])
        self.residual[active], off = self._residuals(active, f)
        finite = np.isfinite(f).all(axis=1)
        course.fail(active[~finite], Status.NOT_FINITE)
        return f, finite & (off > 1)

    @QUIET
    def _residuals(self, active: Index, f: Floats) -> tuple[Floats, Floats]:
        """Root mean squares of f(z) - z, and of that in units of what is tolerated."""
        difference = f - self.z[active]
        scale = self.atol[active] + self.rtol[active] * np.abs(f)
        return rms(difference), rms(np.where(difference == 0, 0, difference / scale))

    def settled(self, active: Index) -> Generator[Ask, Reply, Index]:
        """Save states, also of who has not converged; who has another time to go to."""
        course = self.course
        status = course.status[active]
        here = active[(status == Status.OK) | (status == Status.NOT_CONVERGED)]
        yield from course.reach(here, self.time[here], self.z[here])
        onward = here[(course.status[here] == Status.OK) & (course.count[here] < course.times.shape[1])]
        self.time[onward] = course.times[onward, course.count[onward]]
        return onward

    def solution(self) -> Solution:
        """As far as it went; the last state of each is where its residual was measured."""
        self.course.y = self.z
        solution = self.course.solution()
        return replace(solution, residual=torch.from_numpy(self.residual), warnings=(*solution.warnings, NO_ERROR))
