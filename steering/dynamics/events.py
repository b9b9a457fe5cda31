"""Events: where a coordinate, or an output of a network, changes its sign along a trajectory.

Signs are compared at both ends of every step, so a value that leaves and comes back within one step is not seen. A
change is located on the step's interpolant by Chandrupatla's method (Advances in Engineering Software 28, 1997, 145):
inverse quadratic interpolation where it is safe, else bisection; it takes about seven values. What is returned lies
just behind the change. A value that is 0 where a trajectory starts is no change.
"""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.course import Course, Dense, Floats, Index, Mask
from steering.dynamics.solution import Status
from steering.errors import NetworkError

NARROW_COORDINATE, NARROW_NETWORK = 1e-15, 1e-10
"""Width of the bracket, as a part of the step: a network's rows cost more than a coordinate."""
MOST = 60


@dataclass(frozen=True, eq=False)
class Stop:
    """Rows (of those that made a step) that end inside it, and at which part of it [m]."""

    rows: Index
    part: Floats


class Watch:
    """Looks for the events of a course's problem."""

    def __init__(self, course: Course) -> None:
        self.course = course
        self.events = course.problem.events
        self.networks = any(event.coordinate is None for event in self.events)
        self.values: Floats = np.zeros((len(course.t), len(self.events)))
        self.found = np.zeros(len(course.t), np.int64)
        self.direction = np.array([event.direction for event in self.events])
        self.terminal = np.array([event.terminal for event in self.events], np.bool_)
        self.narrow = np.array(
            [NARROW_NETWORK if event.coordinate is None else NARROW_COORDINATE for event in self.events]
        )

    def begin(self, index: Index) -> Generator[Ask, Reply, None]:
        if self.events and len(index):
            self.values[index] = yield from self._all(index, self.course.t[index], self.course.y[index])

    def passed(
        self, index: Index, step: Floats, end: Floats, after: Floats, dense: Dense
    ) -> Generator[Ask, Reply, Stop | None]:
        """Record the events of steps from the course's present (t, y) to (end, after); who ends inside its step."""
        if not self.events or not len(index):
            return None
        before = self.values[index]
        now = yield from self._all(index, end, after)
        self.values[index] = now
        crossed: Mask = (before != 0) & (np.sign(before) != np.sign(now)) & np.isfinite(now)
        crossed &= (self.direction == 0) | (np.sign(now - before) == self.direction)
        rows, which = np.nonzero(crossed)
        if not len(rows):
            return None
        part = yield from self._locate(index, step, dense, rows, which, before[rows, which], now[rows, which])
        return self._record(index, step, dense, rows, which, part)

    def _all(self, index: Index, t: Floats, y: Floats) -> Generator[Ask, Reply, Floats]:
        """The values of all events [m, E]; a trajectory whose value is not finite fails."""
        outputs = (yield from self._network(index, t, y)) if self.networks else np.zeros((len(index), 0))
        columns = []
        for event in self.events:
            if event.coordinate is None and event.output >= outputs.shape[1]:
                have = outputs.shape[1]
                raise NetworkError(f"event: expected an output {event.output} of the event network, which has {have}")
            column = outputs[:, event.output] if event.coordinate is None else y[:, event.coordinate]
            columns.append(column - event.level)
        values = np.stack(columns, axis=1)
        self.course.fail(index[~np.isfinite(values).all(axis=1)], Status.NOT_FINITE)
        return values

    def _network(self, index: Index, t: Floats, y: Floats) -> Generator[Ask, Reply, Floats]:
        reply = yield self.course.ask("event", index, t, y)
        values: Floats = reply["event"].reshape(len(index), -1).numpy()
        return values

    def _locate(
        self, index: Index, step: Floats, dense: Dense, rows: Index, which: Index, first: Floats, last: Floats
    ) -> Generator[Ask, Reply, Floats]:
        """The part of the step at which event `which` of row `rows` has just changed its sign [p]."""
        start = self.course.t[index]
        x1, x2, f1, f2 = np.zeros(len(rows)), np.ones(len(rows)), first.copy(), last.copy()
        cut = np.clip(f1 / (f1 - f2), 0.01, 0.99)
        narrow, going = self.narrow[which], np.arange(len(rows))
        level = np.array([event.level for event in self.events])[which]
        column = np.array([-1 if event.coordinate is None else event.coordinate for event in self.events])[which]
        output = np.array([event.output for event in self.events])[which]
        for _ in range(MOST):
            x = x1[going] + cut[going] * (x2[going] - x1[going])
            row = rows[going]
            y = dense(row, x)
            value = y[np.arange(len(going)), np.maximum(column[going], 0)]
            asked = np.flatnonzero(column[going] < 0)
            if len(asked):
                at = start[row[asked]] + x[asked] * step[row[asked]]
                out = yield from self._network(index[row[asked]], at, y[asked])
                value[asked] = out[np.arange(len(asked)), output[going][asked]]
            value = value - level[going]
            value = np.where(np.isfinite(value), value, last[going])
            a, fa, b, fb = x1[going], f1[going], x2[going], f2[going]
            same = np.sign(value) == np.sign(fa)
            c, fc = np.where(same, a, b), np.where(same, fa, fb)
            b, fb = np.where(same, b, a), np.where(same, fb, fa)
            x1[going], f1[going], x2[going], f2[going] = x, value, b, fb
            width = np.abs(x - b)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                limit = np.minimum(narrow[going] / width, 0.5)
                xi, phi = (x - b) / (c - b), (value - fb) / (fc - fb)
                safe = (phi * phi < xi) & ((1 - phi) * (1 - phi) < 1 - xi)
                curve = value / (fb - value) * fc / (fb - fc) + (c - x) / (b - x) * value / (fc - value) * fb / (
                    fc - fb
                )
            cut[going] = np.clip(np.where(safe & np.isfinite(curve), curve, 0.5), limit, 1 - limit)
            going = going[(width > 2 * narrow[going]) & (value != 0)]
            if not len(going):
                break
        return np.where(np.sign(f1) != np.sign(first), x1, x2)

    def _record(self, index: Index, step: Floats, dense: Dense, rows: Index, which: Index, part: Floats) -> Stop | None:
        """Keep what was found, row by row in the order of time, up to its row's first terminal event."""
        states = dense(rows, part)
        stopped: dict[int, float] = {}
        course = self.course
        for place in np.lexsort((which, part, rows)).tolist():
            row, event = int(rows[place]), int(which[place])
            trajectory = int(index[row])
            if row in stopped:
                continue
            terminal, kept = bool(self.terminal[event]), course.event.shape[1]
            slot = int(self.found[trajectory])
            if slot < kept or terminal:
                slot = min(slot, kept - 1)  # a terminal event is kept whatever was before it
                course.event[trajectory, slot] = event
                course.t_event[trajectory, slot] = course.t[trajectory] + part[place] * step[row]
                course.y_event[trajectory, slot] = states[place]
                self.found[trajectory] = slot + 1
            if terminal:
                stopped[row] = float(part[place])
                course.status[trajectory] = Status.EVENT
        if not stopped:
            return None
        return Stop(np.array(list(stopped)), np.array(list(stopped.values())))
