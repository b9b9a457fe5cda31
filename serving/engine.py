"""The engine: one thread that packs rows of all running tasks into one network call after another.

A task is a generator of evaluations. Each tick takes the rows of one network that were waiting longest for a turn,
runs them in one bucket, and resumes the tasks whose evaluation is complete. So any mixture of solvers, step counts and
steering shares calls, and a task joins or leaves between two of them. Rows that are evaluated elsewhere, by a service
or by the client, park their task until the reply is there; the thread goes on with the others.
"""

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from serving.backends import Array, Backend, InputError
from serving.metrics import ReplicaMetrics
from serving.scheduler import Slice, Waiting, bucket, pack

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Network:
    """A backend under the name its rows are counted by, and the sizes of calls to keep from (see `evenness`)."""

    name: str
    backend: Backend
    uneven: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Evaluation:
    """Rows for one network: `feeds` [rows, ...] by input name; the reply is the named outputs, [rows, ...] each.

    `announced`: whether its task's `network_rows` counted them from the start.
    """

    network: Network
    feeds: Mapping[str, Array]
    outputs: Sequence[str]
    rows: int
    kind: Literal["network", "reward"] = "network"
    announced: bool = True


@dataclass(frozen=True)
class External:
    """Rows that are evaluated elsewhere, counted under `name`; no rows: something else is waited for.

    `start` begins and returns at once; it runs on the engine's thread. Its future gives the reply, and cancelling the
    future must end the work, at any time.
    """

    name: str
    rows: int
    start: "Callable[[], Future[list[Array]]]"
    kind: Literal["network", "reward"] = "reward"


Step = Evaluation | External
Program = Generator[Step, list[Array], Any]
Key = tuple[bool, Network, tuple[str, ...]]
"""Rows that may share a call: of one class (background or not), one network, and the same outputs."""


@dataclass(eq=False)
class Task:
    """A running program. `network_rows` is how many network rows it will ask for (exact for tables, else a bound);
    what it could not know beforehand joins them when it is asked for.

    Background tasks are served only when no other rows wait. While a task is parked, `external` is what it waits for;
    `since` is when it last was parked, or came to the engine.
    """

    model: str
    program: Program
    network_rows: int
    background: bool = False
    priority: int = 5
    deadline: float = math.inf
    deterministic: bool = False
    future: "Future[Any]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    evaluation: Evaluation | None = None
    external: "Future[list[Array]] | None" = None
    since: float = field(default_factory=time.monotonic)
    replies: list[Array] = field(default_factory=list)
    done_rows: int = 0
    missing: int = 0
    started: bool = False

    @property
    def backlog(self) -> int:
        return max(0, self.network_rows - self.done_rows)


class QueueFullError(Exception):
    """More rows are waiting than the engine takes on."""


class Engine:
    """Runs tasks on a thread of its own.

    Args:
        max_bucket: most rows of one network call.
        max_queue_rows: most network rows of foreground tasks not evaluated yet.
    """

    def __init__(self, metrics: ReplicaMetrics, *, max_bucket: int = 32, max_queue_rows: int = 2**24) -> None:
        self._metrics, self._max_bucket, self._max_queue_rows = metrics, max_bucket, max_queue_rows
        self._condition = threading.Condition()
        self._inbox: deque[Task] = deque()
        self._cancelled: set[Task] = set()
        self._replied: deque[tuple[Task, External, Future[list[Array]]]] = deque()
        self._tasks: dict[Task, None] = {}
        self._stopping = False
        self._queues: dict[Key, deque[Waiting[Task]]] = {}  # only the engine's thread touches them
        self._last_call = time.monotonic()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    @property
    def backlog_rows(self) -> int:
        """Network rows that foreground tasks still have to evaluate."""
        with self._condition:
            return self._waiting()

    @property
    def alive(self) -> bool:
        """Whether the thread runs; it ends by itself only through a bug."""
        return self._thread.is_alive()

    def stalled_for(self) -> float:
        """Seconds that a task has waited for the engine without a network call ending; 0 when none waits.

        A parked task waits for somebody else, whose slowness is not the engine's.
        """
        with self._condition:
            waiting = [task.since for task in self._tasks if task.external is None]
            return time.monotonic() - max(self._last_call, min(waiting)) if waiting else 0.0

    def submit(self, task: Task) -> "Future[Any]":
        """Start a task; the future gives its program's result. Cancelling it takes its rows out before the next call.

        Raises:
            QueueFullError: with what is waiting and the bound.
        """
        with self._condition:
            if self._stopping:
                raise QueueFullError("the engine has stopped")
            waiting = self._waiting()
            if not task.background and waiting + task.network_rows > self._max_queue_rows:
                raise QueueFullError(
                    f"queue full: {waiting} network rows wait, {task.network_rows} more were asked for, "
                    f"expected at most {self._max_queue_rows} in all"
                )
            self._tasks[task] = None
            self._inbox.append(task)
            self._condition.notify()
        task.future.add_done_callback(lambda future: self._cancel(task) if future.cancelled() else None)
        return task.future

    def stop(self) -> None:
        """End the thread; tasks that still run fail with `QueueFullError`."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()

    def _waiting(self) -> int:
        """Network rows of foreground tasks that somebody still waits for."""
        return sum(each.backlog for each in self._tasks if not each.background and not each.future.cancelled())

    def _cancel(self, task: Task) -> None:
        with self._condition:
            self._cancelled.add(task)
            self._condition.notify()

    def _loop(self) -> None:
        while self._take_in():
            if (key := self._next_queue()) is not None:
                self._call(key)
        for task in list(self._tasks):
            self._fail(task, QueueFullError("the engine has stopped"))

    def _take_in(self) -> bool:
        """Admit, cancel and wake tasks, waiting while there is nothing to do; False once stopping."""
        with self._condition:
            while not (self._inbox or self._cancelled or self._replied or self._stopping or any(self._queues.values())):
                self._condition.wait()
            arrived, self._inbox = list(self._inbox), deque()
            cancelled, self._cancelled = self._cancelled, set()
            replied, self._replied = list(self._replied), deque()
            stopping = self._stopping
        if cancelled:
            for queue in self._queues.values():
                kept = [waiting for waiting in queue if waiting.owner not in cancelled]
                queue.clear()
                queue.extend(kept)
        for task in arrived:
            if task not in cancelled:
                self._resume(task, None)
        for task in cancelled:
            self._forget(task)
            task.program.close()
        for task, external, reply in replied:
            if task.external is reply:  # not so if the task has ended
                self._wake(task, external, reply)
        return not stopping

    def _next_queue(self) -> Key | None:
        """The network served least recently among those with rows waiting; background rows come last."""
        self._queues = {key: queue for key, queue in self._queues.items() if queue}  # clients make keys
        for key in sorted(self._queues, key=lambda k: k[0]):
            self._queues[key] = self._queues.pop(key)  # to the end of its turn
            return key
        return None

    def _call(self, key: Key) -> None:
        """One network call for rows of many tasks."""
        slices = pack(self._queues[key], self._max_bucket)
        now = time.monotonic()
        for each in slices:
            if not each.owner.started:
                each.owner.started = True
                self._metrics.queue_seconds.labels(each.owner.model).observe(now - each.owner.submitted)
        try:
            outputs = self._run(key, slices)
        except Exception as error:
            if len(slices) > 1:  # one task's inputs must not fail the others'
                for each in slices:
                    self._call_alone(key, each)
            else:
                self._reject(key, slices[0].owner, error)
            return
        row = 0
        for each in slices:
            count = each.stop - each.first
            self._deliver(each, [output[row : row + count] for output in outputs])
            row += count

    def _call_alone(self, key: Key, part: Slice[Task]) -> None:
        try:
            outputs = self._run(key, [part])
        except Exception as error:
            self._reject(key, part.owner, error)
        else:
            self._deliver(part, outputs)

    def _reject(self, key: Key, task: Task, error: Exception) -> None:
        name = key[1].name
        _log.warning("network %s failed on rows of a request for %s: %s", name, task.model, error)
        self._queues[key] = deque(waiting for waiting in self._queues[key] if waiting.owner is not task)
        known = isinstance(error, InputError)
        self._fail(task, error if known else NetworkFailedError(f"network {name!r} failed: {error}"))

    def _run(self, key: Key, slices: Sequence[Slice[Task]]) -> list[Array]:
        """The outputs for the slices' rows, run in one bucket filled up with copies of the last row."""
        _, network, outputs = key
        evaluations = [_evaluation(each.owner) for each in slices]
        rows = sum(each.stop - each.first for each in slices)
        size = bucket(rows, self._max_bucket, network.uneven)
        feeds = {}
        for name in evaluations[0].feeds:
            parts = [e.feeds[name][s.first : s.stop] for e, s in zip(evaluations, slices, strict=True)]
            if size > rows:
                parts.append(np.repeat(parts[-1][-1:], size - rows, axis=0))
            feeds[name] = np.concatenate(parts) if len(parts) > 1 else parts[0]
        start = time.monotonic()
        results = network.backend.run(feeds, outputs)
        self._last_call = time.monotonic()
        self._metrics.network_seconds.labels(network.name).observe(self._last_call - start)
        self._metrics.bucket_fill.labels(network.name).observe(rows / size)
        for name, result in zip(outputs, results, strict=True):
            if result.shape[:1] != (size,):
                raise ValueError(f"output {name!r}: expected {size} rows for {size}, got shape {list(result.shape)}")
        return [result[:rows] for result in results]

    def _deliver(self, part: Slice[Task], outputs: list[Array]) -> None:
        task, evaluation = part.owner, _evaluation(part.owner)
        count = part.stop - part.first
        self._metrics.rows_total.labels(evaluation.network.name, evaluation.kind).inc(count)
        if not task.replies:
            task.replies = [np.empty((evaluation.rows, *output.shape[1:]), output.dtype) for output in outputs]
        for whole, output in zip(task.replies, outputs, strict=True):
            whole[part.first : part.stop] = output
        task.missing -= count
        if evaluation.kind == "network":
            task.done_rows += count
        if not task.missing and task not in self._cancelled:
            self._resume(task, task.replies)

    def _resume(self, task: Task, reply: list[Array] | None) -> None:
        """Advance a task's program to its next step, or to its end."""
        try:
            step = next(task.program) if reply is None else task.program.send(reply)
            if isinstance(step, External):
                self._park(task, step)
                return
        except StopIteration as stop:
            self._forget(task)
            with contextlib.suppress(InvalidStateError):  # the caller left meanwhile
                task.future.set_result(stop.value)
            return
        except Exception as error:
            self._fail(task, error)
            return
        if step.kind == "network" and not step.announced:
            task.network_rows += step.rows
        task.evaluation, task.replies, task.missing = step, [], step.rows
        key = (task.background, step.network, tuple(step.outputs))
        self._queues.setdefault(key, deque()).append(Waiting(task, step.rows))

    def _park(self, task: Task, external: External) -> None:
        """Start what is evaluated elsewhere; whoever finishes it rings."""

        def ring(future: "Future[list[Array]]") -> None:
            with self._condition:
                self._replied.append((task, external, future))
                self._condition.notify()

        task.since = time.monotonic()
        task.external = external.start()
        task.external.add_done_callback(ring)

    def _wake(self, task: Task, external: External, reply: "Future[list[Array]]") -> None:
        """Resume a parked task with its reply, or fail it with the reason why there is none."""
        parked, task.since, task.external = task.since, time.monotonic(), None
        try:
            outputs = reply.result()
        except CancelledError:
            self._fail(task, ExternalError(f"{external.kind} {external.name!r}: its evaluation was cancelled"))
        except Exception as error:
            self._fail(task, error)
        else:
            if external.rows:
                self._metrics.rows_total.labels(external.name, external.kind).inc(external.rows)
                self._metrics.external_seconds.labels(external.name).observe(task.since - parked)
            self._resume(task, outputs)

    def _fail(self, task: Task, error: Exception) -> None:
        self._forget(task)
        task.program.close()
        with contextlib.suppress(InvalidStateError):  # the caller left meanwhile
            task.future.set_exception(error)

    def _forget(self, task: Task) -> None:
        with self._condition:
            self._tasks.pop(task, None)
            external, task.external = task.external, None
        if external is not None:
            external.cancel()


class NetworkFailedError(Exception):
    """A network call raised; the rows in it are lost."""


class DeadlinePassedError(Exception):
    """A task's deadline passed before it was through."""


class ExternalError(Exception):
    """An evaluation elsewhere ended without a reply and without a reason."""


def _evaluation(task: Task) -> Evaluation:
    assert task.evaluation is not None
    return task.evaluation
