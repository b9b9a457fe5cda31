"""What every solver of differential equations keeps of its trajectories on the way: states, steps, what is saved.

Arrays here are NumPy's, [n, d] with the state flattened: their operations take a third of the time of torch's on the
few numbers of one request. Only operations whose bits do not depend on a number's place are used: no matrix products,
no reductions but `rms`.
"""

from collections.abc import Callable, Generator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.problem import Problem
from steering.dynamics.solution import Solution, Status

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
Dense = Callable[[Index, Floats], Floats]
"""States inside a step: (which of the rows that made one [m], parts of the step in 0..1 [m]) to [m, d]."""


class Course:
    """n trajectories under way.

    Attributes:
        y, t: where each is; `status` as in a solution, OK while it goes on.
        ends: the last time of each, and `sign`, 1 or -1, the direction that it goes in.
        evaluations, accepted, rejected: as in a solution.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        n, self.size = problem.n, problem.y0[0].numel()
        self.y: Floats = problem.y0.reshape(n, self.size).numpy().copy()
        self.plain = problem.state == (self.size,)
        """States are vectors."""
        self._index: Index = np.zeros(0, np.int64)
        self._rows = torch.from_numpy(self._index)
        self.times: Floats = problem.t_eval.numpy()
        self.t: Floats = self.times[:, 0].copy()
        self.ends: Floats = self.times[:, -1]
        self.sign: Floats = np.where(self.ends >= self.t, 1.0, -1.0)
        self.forward: Floats = self.times * self.sign[:, None]
        self.status = np.full(n, Status.OK, np.int32)
        self.evaluations, self.accepted, self.rejected = (np.zeros(n, np.int64) for _ in range(3))
        kept = problem.max_events
        self.t_event = np.full((n, kept), np.nan)
        self.y_event = np.full((n, kept, self.size), np.nan)
        self.event = np.full((n, kept), -1, np.int64)
        self.saved = np.full((n, self.times.shape[1], self.size), np.nan)
        self.count = np.zeros(n, np.int64)
        """How many of its times each has come to."""

    def field(self, index: Index, t: Floats, y: Floats, role: str = "drift") -> Generator[Ask, Reply, Floats]:
        """f(t, y) [m, d] of these trajectories."""
        self.evaluations[index] += 1  # every trajectory is there once
        reply = yield self.ask("field", index, t, y)
        return self.flat(reply[role])

    def ask(self, part: str, index: Index, t: Floats, y: Floats, **extra: Tensor) -> Ask:
        state = torch.from_numpy(y)
        if not self.plain:
            state = state.reshape(len(y), *self.problem.state)
        if index is not self._index:  # all stages of a step are of the same
            self._index, self._rows = index, torch.from_numpy(index)
        return Ask(part, self._rows, state, torch.from_numpy(t), extra)  # type: ignore[arg-type]

    def flat(self, values: Tensor) -> Floats:
        array: Floats = values.to(torch.float64).numpy()
        return array if self.plain else array.reshape(len(array), self.size)

    def begin(self) -> Generator[Ask, Reply, Index]:
        """Save the first states; which trajectories have somewhere to go."""
        everyone = np.arange(len(self.t))
        broken = ~np.isfinite(self.y).all(axis=1)
        self.fail(everyone[broken], Status.NOT_FINITE)
        alive = everyone[~broken]
        yield from self.reach(alive, self.t[alive], self.y[alive])
        return alive[self.count[alive] < self.times.shape[1]]

    def reach(
        self, index: Index, t: Floats, y: Floats, dense: Dense | None = None, step: Floats | None = None
    ) -> Generator[Ask, Reply, None]:
        """Go on to (t, y), and save the states at times passed: inside steps of length `step`, which `dense` gives."""
        since, last = self.t[index], self.times.shape[1]
        self.t[index], self.y[index] = t, y
        position = self.count[index]
        wanted = self.forward[index, np.minimum(position, last - 1)]
        which = np.flatnonzero((position < last) & (wanted <= t * self.sign[index]))
        if not len(which):
            return
        passed = [int(np.searchsorted(self.forward[i], u, side="right")) for i, u in zip(
            index[which].tolist(), (t * self.sign[index])[which].tolist(), strict=True
        )]  # fmt: skip
        due = np.array(passed) - position[which]
        rows = np.repeat(which, due)
        places = np.arange(len(rows)) + np.repeat(np.array(passed) - np.cumsum(due), due)
        times, values = self.times[index[rows], places], y[rows]
        inside = times != t[rows]
        if dense is not None and step is not None and inside.any():
            within = rows[inside]
            values[inside] = dense(within, (times[inside] - since[within]) / step[within])
        self.saved[index[rows], places] = values
        self.count[index[which]] = passed
        if self.problem.show:
            yield self.ask("saved", index[rows], times, values, position=torch.from_numpy(places))

    def fail(self, index: Index, status: Status) -> None:
        self.status[index] = status

    def solution(self) -> Solution:
        problem, n = self.problem, self.problem.n
        y, y_event = torch.from_numpy(self.saved), torch.from_numpy(self.y_event)
        return Solution(
            y=y.reshape(n, -1, *problem.state),
            status=torch.from_numpy(self.status),
            evaluations=torch.from_numpy(self.evaluations),
            accepted=torch.from_numpy(self.accepted),
            rejected=torch.from_numpy(self.rejected),
            t_event=torch.from_numpy(self.t_event),
            y_event=y_event.reshape(n, -1, *problem.state),
            event=torch.from_numpy(self.event),
            t_last=torch.from_numpy(self.t),
            y_last=torch.from_numpy(self.y).reshape(n, *problem.state),
            warnings=problem.warnings,
        )


QUIET = np.errstate(over="ignore", invalid="ignore", divide="ignore")
"""For arithmetic of states that may not be finite, whose trajectories then fail. A decorator, of functions: generators
would take the setting along to whoever drives them."""


@QUIET
def moved(y: Floats, step: Floats, slopes: list[Floats], weights: tuple[float, ...]) -> Floats:
    """y + step sum_i weights_i slopes_i, from the first to the last."""
    total: Floats | None = None
    for weight, slope in zip(weights, slopes, strict=False):
        if weight:
            part = slope if weight == 1 else slope * weight
            total = part if total is None else total + part
    return y if total is None else y + step[:, None] * total


@QUIET
def rms(values: Floats) -> Floats:
    """Root mean square of each row [m, d]."""
    mean: Floats = np.sqrt(sums(values * values) / max(values.shape[1], 1))
    return mean


@QUIET
def sums(values: Floats) -> Floats:
    """Sums over the last axis [..., d], half onto half."""
    total = values
    while total.shape[-1] > 1:
        half = total.shape[-1] // 2
        folded = total[..., :half] + total[..., half : 2 * half]
        if total.shape[-1] % 2:
            folded[..., 0] += total[..., -1]
        total = folded
    return total.sum(axis=-1)  # of one number or none
