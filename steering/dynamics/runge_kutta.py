"""Embedded explicit Runge-Kutta pairs, by a row of the field a stage, or by a row of a step graph a step."""

from collections.abc import Generator

import numpy as np
import torch

from steering.dynamics.adaptive import Attempt, adaptive
from steering.dynamics.asking import Ask, Reply
from steering.dynamics.controller import Controller
from steering.dynamics.course import Course, Floats, Index, Mask, moved
from steering.dynamics.problem import Solver
from steering.dynamics.tableaus import BOSH3, DOPRI5, TSIT5, Pair


class Explicit:
    """Steps of a pair."""

    def __init__(self, pair: Pair, course: Course) -> None:
        self.pair, self.course = pair, course
        self.controller = Controller(pair.order)

    def rate(self, index: Index, t: Floats, y: Floats) -> Generator[Ask, Reply, Floats]:
        return (yield from self.course.field(index, t, y))

    def attempt(
        self, index: Index, t: Floats, step: Floats, y: Floats, slope: Floats
    ) -> Generator[Ask, Reply, Attempt]:
        if self.course.problem.step_graph:
            return (yield from self._by_graph(index, t, step, y, slope))
        slopes, after = [slope], y
        for c, row in zip(self.pair.c, self.pair.a, strict=True):
            after = moved(y, step, slopes, row)
            slopes.append((yield from self.course.field(index, t + c * step, after)))
        return Attempt(after, moved(np.zeros_like(y), step, slopes, self.pair.error), slopes)

    def _by_graph(
        self, index: Index, t: Floats, step: Floats, y: Floats, slope: Floats
    ) -> Generator[Ask, Reply, Attempt]:
        """A step by one row: the graph does in its own precision what is done above."""
        course, stages = self.course, len(self.pair.c)
        course.evaluations[index] += stages
        first = torch.from_numpy(slope).reshape(len(slope), *course.problem.state)
        reply = yield course.ask("step", index, t, y, h=torch.from_numpy(step), k1=first)
        slopes = reply["slopes"].reshape(len(index), stages, course.size).numpy()
        after = y + course.flat(reply["dz"])
        return Attempt(after, course.flat(reply["error"]), [slope, *(slopes[:, i] for i in range(stages))])

    def kept(self, index: Index, kept: Mask) -> None:
        pass

    def weights(self, part: Floats) -> Floats:
        return self.pair.weights(part)


def _solver(name: str, pair: Pair, about: str) -> Solver:
    program = adaptive(lambda course: Explicit(pair, course))
    return Solver(
        name=name, kinds=("ode",), order=pair.order, adaptive=True, events=True, about=about, program=program
    )  # fmt: skip


SOLVERS = (
    _solver("tsit5", TSIT5, "order 5 with steps of its own, six rows each (Tsitouras 2011): the default"),
    _solver("dopri5", DOPRI5, "order 5 with steps of its own, six rows each (Dormand & Prince 1980)"),
    _solver(
        "bosh3", BOSH3, "order 3 with steps of its own, three rows each (Bogacki & Shampine 1989): rough tolerances"
    ),
)
