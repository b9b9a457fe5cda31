"""Controlled differential equations dy = f(y) dX: the path X of irregular observations, and solvers of ODEs along it.

Kidger, Morrill, Foster & Lyons 2020, "Neural controlled differential equations for irregular time series"; the two
interpolations are those of Morrill, Kidger, Yang & Lyons 2021, "Neural controlled differential equations for online
prediction tasks":

- "hermite": cubic pieces whose slope at an observation is that of the line from the one before (backward differences),
  so that what comes later changes nothing before the last observation seen. Missing values lie on the line between the
  observations of their channel.
- "rectilinear": first time moves, then the values do: between two observations X keeps the earlier values, and jumps at
  the later time. The first channel is time, in any unit. Missing values are those before them. The equation does not
  change with the speed at which X is travelled: a jump is given a length of its own, the mean of the row's intervals,
  and both kinds of piece are begun and ended at speed 0, so that solvers meet no corner. A state at an observation's
  time has seen it.

A solver of ODEs solves them through the input "dx", the derivative of X [m, channels] at the row's place.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steering.dynamics.asking import Ask, Program, Reply
from steering.dynamics.control import Control, Floats, place
from steering.dynamics.course import QUIET
from steering.dynamics.problem import Problem, Solver
from steering.dynamics.solution import Solution
from steering.errors import PlanError


class _Travel:
    """How a solver goes along X: by places s, which are times unless the path is rectilinear."""

    @QUIET
    def __init__(self, path: Control) -> None:
        self.path = path
        t, counts = path.times, path.counts
        self.intervals = np.maximum(counts - 1, 0)
        lengths = np.diff(t, axis=1)
        self.lengths = np.concatenate([lengths, np.zeros((len(t), 1))], axis=1)
        if path.interpolation == "rectilinear":
            spans = t[:, -1] - t[:, 0]
            self.jump = np.where(spans > 0, spans / np.maximum(self.intervals, 1), 1.0)
            jumps = np.broadcast_to(self.jump[:, None], lengths.shape)
            pieces = np.stack([lengths, np.where(lengths > 0, jumps, 0)], axis=2).reshape(len(t), -1)
            self.knots = np.concatenate([t[:, :1], t[:, :1] + np.cumsum(pieces, axis=1)], axis=1)
            self.counts = 2 * self.intervals + 1
        else:
            self.knots, self.counts = t, counts
        self.slopes = np.divide(
            np.diff(path.values, axis=1), lengths[..., None],
            out=np.zeros((len(t), max(t.shape[1] - 1, 1), path.values.shape[2]))[:, : t.shape[1] - 1],
            where=lengths[..., None] > 0,
        )  # fmt: skip

    @QUIET
    def places(self, t: Tensor) -> Tensor:
        """s of times [n, T]."""
        if self.path.interpolation == "hermite":
            return t
        out = np.empty(t.shape)
        rows = self.path.rows(np.arange(len(t)))
        for k, column in enumerate(t.numpy().T):
            at = place(self.path.times, self.path.counts, rows, column)
            start, length = self.path.times[rows, at], self.lengths[rows, at]
            passed = np.clip((column - start) / np.where(length > 0, length, 1), 0, 1)
            out[:, k] = self.knots[rows, np.minimum(2 * at, self.knots.shape[1] - 1)] + length * _when(passed)
        return torch.from_numpy(out)

    def stops(self, n: int) -> Tensor:
        """Places of the knots of n trajectories [n, L]."""
        return torch.from_numpy(self.knots).expand(n, -1)

    @QUIET
    def times(self, index: NDArray[np.int64], s: Floats) -> Floats:
        """t of places [m]."""
        if self.path.interpolation == "hermite":
            return s
        rows = self.path.rows(index)
        piece = self._piece(rows, s)
        at = piece // 2
        part = self._part(rows, piece, s)
        passed = np.where(piece % 2 == 0, part * part * (3 - 2 * part), 1)
        start, length = self.path.times[rows, at], self.lengths[rows, at]
        later = self.path.times[rows, np.minimum(at + 1, self.path.times.shape[1] - 1)]
        return np.where(passed < 1, start + length * passed, later)

    @QUIET
    def derivative(self, index: NDArray[np.int64], s: Floats) -> Floats:
        """dX/ds at places [m], [m, channels]."""
        if not self.slopes.shape[1]:
            return np.zeros((len(s), self.path.values.shape[2]))
        rows = self.path.rows(index)
        piece = self._piece(rows, s)
        part = self._part(rows, piece, s)
        if self.path.interpolation == "hermite":
            slope, before = self.slopes[rows, piece], self.slopes[rows, np.maximum(piece - 1, 0)]
            weight = (part * (4 - 3 * part))[:, None]
            return weight * slope + (1 - weight) * before
        at, jumping = piece // 2, piece % 2 == 1
        length = np.where(jumping, self.lengths[rows, at] / self.jump[rows], 1)
        derivative = self.slopes[rows, at] * (length * 6 * part * (1 - part))[:, None]
        derivative[jumping, 0] = 0
        derivative[~jumping, 1:] = 0
        return derivative

    def _piece(self, rows: NDArray[np.int64], s: Floats) -> NDArray[np.int64]:
        """Between which knots places lie; beyond the ends, the outermost."""
        return np.minimum(place(self.knots, self.counts, rows, s), np.maximum(self.counts[rows] - 2, 0))

    def _part(self, rows: NDArray[np.int64], piece: NDArray[np.int64], s: Floats) -> Floats:
        """How much of the piece lies behind, 0..1."""
        start, end = self.knots[rows, piece], self.knots[rows, np.minimum(piece + 1, self.knots.shape[1] - 1)]
        return np.asarray(np.clip((s - start) / np.where(end > start, end - start, 1), 0, 1))


def _when(passed: Floats) -> Floats:
    """p in 0..1 with 3 p^2 - 2 p^3 = `passed`."""
    third = torch.asin(torch.from_numpy(1 - 2 * passed)) / 3  # torch's: numpy's may round by place
    return np.where(passed <= 0, 0.0, np.where(passed >= 1, 1.0, 0.5 - torch.sin(third).numpy()))


def also_controlled(solver: Solver) -> Solver:
    """The same solver of ODEs, for controlled equations, too."""

    def program(problem: Problem) -> Program[Solution]:
        if problem.kind == "cde":
            return _along(problem, solver.program, stops=not solver.adaptive)
        return solver.program(problem)

    return replace(solver, kinds=(*solver.kinds, "cde"), program=program)


def _along(problem: Problem, solving: Callable[[Problem], Program[Solution]], stops: bool) -> Program[Solution]:
    """Solve along the control. With `stops`, steps end at its observations, where its derivative is not smooth."""
    path = problem.control
    if path is None:
        raise PlanError("control: expected observations beside kind cde, got none")
    path.covers(problem.t_eval.amin(dim=1), problem.t_eval.amax(dim=1))
    travel = _Travel(path)
    asked = travel.places(problem.t_eval)
    times, where = (asked, None) if not stops else _with_knots(asked, travel.stops(problem.n))
    steps = solving(replace(problem, kind="ode", t_eval=times))
    try:
        ask = next(steps)
        while True:
            ask = steps.send((yield from _answered(ask, problem, travel, where)))
    except StopIteration as stop:
        solution: Solution = stop.value
    everyone = np.arange(problem.n)
    t_event = [travel.times(everyone, column) for column in solution.t_event.numpy().T]
    y = solution.y
    if where is not None:
        y = y[torch.arange(problem.n)[:, None], where]
    return replace(
        solution,
        y=y,
        t_event=torch.from_numpy(np.stack(t_event, axis=1)),
        t_last=torch.from_numpy(travel.times(everyone, solution.t_last.numpy())),
    )


def _answered(ask: Ask, problem: Problem, travel: _Travel, where: Tensor | None) -> Program[Reply]:
    """What an ODE's rows are told: fields have the derivative, and times are those of the path."""
    index = ask.index.numpy()
    if ask.part == "saved":
        position = ask.extra["position"]
        if where is not None:
            match = where[ask.index] == position[:, None]
            known = match.any(dim=1)
            if not bool(known.any()):
                return {}
            position = match.to(torch.int64).argmax(dim=1)[known]
            ask = replace(ask, index=ask.index[known], y=ask.y[known])
        t = problem.t_eval[ask.index, position]
        return (yield replace(ask, t=t, extra={**ask.extra, "position": position}))
    s = ask.t.numpy()
    extra = {**ask.extra, "dx": torch.from_numpy(travel.derivative(index, s))}
    return (yield replace(ask, t=torch.from_numpy(travel.times(index, s)), extra=extra))


def _with_knots(t: Tensor, knots: Tensor) -> tuple[Tensor, Tensor]:
    """The times and the knots between them, in order, [n, T + L]; and where each of the times went [n, T]."""
    low, high = torch.minimum(t[:, :1], t[:, -1:]), torch.maximum(t[:, :1], t[:, -1:])
    sign = torch.where(t[:, -1:] >= t[:, :1], 1.0, -1.0).to(torch.float64)
    together = torch.cat([t, knots.clamp(low, high)], dim=1) * sign
    ordered, order = together.sort(dim=1, stable=True)
    return ordered * sign, order.argsort(dim=1)[:, : t.shape[1]]
