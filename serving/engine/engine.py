"""The engine: one thread that packs rows of all running tasks into one network call after another.

A task is a generator of evaluations. Each tick takes rows of one network (see `scheduler`), runs them in one call, and
resumes the tasks whose evaluation is complete. So any mixture of solvers, step counts and steering shares calls, and a
task joins or leaves between two of them. Networks that have rows waiting share the thread's time evenly.

Where the next call is full anyway, tasks are resumed on a second thread, so that the network goes on meanwhile; those
that compute much between their evaluations always are. Rows that are evaluated elsewhere, by a service or by the
client, park their task until the reply is there.
"""

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any

import numpy as np
import torch

from serving.backends import Array, Backend, InputError, OutOfMemoryError, UnavailableError
from serving.engine import admission
from serving.engine.calls import Calls, current, kind_of
from serving.engine.metrics import ReplicaMetrics
from serving.engine.pace import Pace
from serving.engine.scheduler import Call, Slice
from serving.engine.second_thread import Advance, SecondThread
from serving.engine.task import External, Product, State, Task
from serving.engine.turns import Key, Turns

_log = logging.getLogger(__name__)
_IDLE_S = 1.0
"""How often an idle engine counts its idle time, so that whoever looks at the metrics sees it grow."""


_ABOUT_S = 0.1
"""A call that is cancelled so shortly before its deadline had run out of time."""


class QueueFullError(Exception):
    """More is waiting than the engine takes on."""


class DeadlinePassedError(Exception):
    """A task that was not done by its deadline."""


class NetworkFailedError(Exception):
    """A network call raised; the rows in it are lost."""


class ExternalError(Exception):
    """An evaluation elsewhere ended without a reply and without a reason."""


class Engine:
    """Runs tasks on a thread of its own.

    Args:
        max_bucket: most rows of one network call.
        max_queue_rows: most network rows of foreground tasks not evaluated yet.
        max_queue_bytes: most memory of foreground tasks, as they estimate it themselves.
    """

    def __init__(
        self,
        metrics: ReplicaMetrics,
        *,
        max_bucket: int = 256,
        max_queue_rows: int = 2**24,
        max_queue_bytes: int = 2**32,
    ) -> None:
        self._metrics, self._calls = metrics, Calls(metrics, max_bucket)
        self._max_queue_rows, self._max_queue_bytes = max_queue_rows, max_queue_bytes
        self._condition = threading.Condition()
        self._inbox: deque[Task] = deque()
        self._cancelled: set[Task] = set()
        self._replied: deque[tuple[Task, External, Future[list[Array]]]] = deque()
        self._advanced: deque[tuple[Task, Advance]] = deque()
        self._released: deque[Backend] = deque()
        self._tasks: dict[Task, None] = {}
        self._stopping = False
        self._turns = Turns()  # only the engine's thread touches it
        self._pace = Pace()
        self._due: float | None = None  # when the next call is not put off any more
        self._second_thread = SecondThread(
            self._advanced_on_second_thread, lambda seconds: metrics.spent("host", seconds)
        )
        metrics.backlog_limit_rows.set(max_queue_rows)
        for gauge, look in (
            (metrics.backlog_rows, lambda: self.backlog_rows),
            (metrics.backlog_seconds, lambda: self.backlog_seconds),
            (metrics.running, lambda: self._running()[0]),
            (metrics.running_bytes, lambda: self._running()[1]),
            (metrics.queue_age_seconds, lambda: self.queue_age_s),
        ):
            gauge.set_function(look)
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    @property
    def backlog_rows(self) -> int:
        """Network rows that foreground tasks still have to evaluate."""
        with self._condition:
            return sum(each.backlog for each in self._foreground())

    @property
    def backlog_seconds(self) -> float:
        """Estimated seconds until all foreground tasks are done, if no others come."""
        with self._condition:
            return sum(each.seconds for each in self._pace.demands([*self._foreground()]))

    @property
    def queue_age_s(self) -> float:
        """Seconds since the oldest foreground task was made that waits for its first network call; 0 for none."""
        with self._condition:
            waiting = (State.READY, State.QUEUED)
            came = [each.submitted for each in self._foreground() if not each.begun and each.state in waiting]
            return time.monotonic() - min(came) if came else 0.0

    def _running(self) -> tuple[int, int]:
        """The number of foreground tasks, and their bytes."""
        with self._condition:
            sizes = [each.bytes for each in self._foreground()]
            return len(sizes), sum(sizes)

    @property
    def alive(self) -> bool:
        """Whether its threads run; they end by themselves only through a bug."""
        return self._thread.is_alive() and self._second_thread.alive

    def stalled_for(self) -> float:
        """Seconds that a task has waited for the engine without a network call ending; 0 when none waits.

        A parked task waits for somebody else, whose slowness is not the engine's.
        """
        with self._condition:
            waiting = [task.since for task in self._tasks if task.state in (State.READY, State.QUEUED)]
            return time.monotonic() - max(self._calls.last, min(waiting)) if waiting else 0.0

    def submit(self, task: Task) -> "Future[Any]":
        """Start a task; the future gives its program's result. Cancelling it takes its rows out before the next call.

        Raises:
            QueueFullError: with what is waiting and the bound.
            DeadlineError: with the estimate, where the task's deadline cannot be met or would make others late.
            DeadlinePassedError: it is past already.
        """
        with self._condition:
            if self._stopping:
                raise QueueFullError("the engine has stopped")
            if task.deadline <= time.monotonic():
                raise DeadlinePassedError("the deadline passed before the request was taken on")
            if not task.background:
                self._admit(task)
            self._tasks[task] = None
            self._inbox.append(task)
            self._condition.notify()
        task.future.add_done_callback(lambda future: self._cancel(task) if future.cancelled() else None)
        return task.future

    def release(self, backend: Backend) -> None:
        """Close a backend that no task will use again, when no call runs on it any more."""
        with self._condition:
            self._released.append(backend)
            self._condition.notify()

    def stop(self) -> None:
        """End the threads; tasks that still run fail with `QueueFullError`."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()
        self._second_thread.stop()

    def _admit(self, task: Task) -> None:
        others = list(self._foreground())
        rows, size = sum(each.backlog for each in others), sum(each.bytes for each in others)
        with self._refusing(task, "queue"):
            if rows + task.network_rows > self._max_queue_rows:
                raise QueueFullError(
                    f"queue full: {rows} network rows wait, {task.network_rows} more were asked for, "
                    f"expected at most {self._max_queue_rows} in all"
                )
            if size + task.bytes > self._max_queue_bytes:
                raise QueueFullError(
                    f"memory full: requests under way take {size} bytes, {task.bytes} more were asked for, "
                    f"expected at most {self._max_queue_bytes} in all"
                )
        with self._refusing(task, "deadline"):
            if task.timed or any(each.timed for each in others):
                *then, new = self._pace.demands([*others, task])
                admission.check(new, self._pace.demands(others), time.monotonic(), then)

    @contextlib.contextmanager
    def _refusing(self, task: Task, reason: str) -> Iterator[None]:
        try:
            yield
        except (QueueFullError, admission.DeadlineError):
            self._metrics.refused.labels(task.model, reason).inc()
            raise

    def _foreground(self) -> Iterator[Task]:
        """The tasks that are `awaited`."""
        return filter(awaited, self._tasks)

    def _cancel(self, task: Task) -> None:
        with self._condition:
            self._cancelled.add(task)
            self._condition.notify()

    def _loop(self) -> None:
        torch.set_num_threads(1)  # counts for this thread: set on others alone, MKL's functions here take all cores
        while self._take_in():
            now = time.monotonic()
            with self._condition:
                # a task that waits for a service or a client cannot be hurried
                timed = [task for task in self._tasks if task.timed and task.external is None and awaited(task)]
            urgent = {timed[i] for i in admission.urgent(self._pace.demands(timed), now)}
            key = self._turns.next(now, urgent)
            if key is None:
                self._due = None
            elif urgent or not self._lingers(key, now):
                self._due = None
                self._call(key, timed, urgent)
        for task in list(self._tasks):
            self._fail(task, QueueFullError("the engine has stopped"))

    def _lingers(self, key: Key, now: float) -> bool:
        """Wait for rows that the second thread is about to bring, no longer than sharing the call can save."""
        if self._due is None:
            self._due = now + self._turns.patience(key)
        if now >= self._due or not (self._second_thread.busy or self._advanced):
            return False
        with self._condition:
            if not self._advanced:
                self._condition.wait(self._due - now)
        self._metrics.spent("idle", time.monotonic() - now)
        return True

    def _take_in(self) -> bool:
        """Admit, cancel and wake tasks, waiting while there is nothing to do; False once stopping."""
        start = time.monotonic()
        with self._condition:
            while not (self._news() or self._stopping or self._turns):
                deadline = min((task.deadline for task in self._tasks), default=np.inf)
                self._condition.wait(max(0.0, min(deadline - time.monotonic(), _IDLE_S)))
                start, before = time.monotonic(), start
                self._metrics.spent("idle", start - before)
                if deadline <= start:
                    break
            arrived, self._inbox = list(self._inbox), deque()
            cancelled, self._cancelled = self._cancelled, set()
            replied, self._replied = list(self._replied), deque()
            advanced, self._advanced = list(self._advanced), deque()
            released, self._released = list(self._released), deque()
            late = [task for task in self._tasks if task.timed and task.deadline <= time.monotonic()]
            stopping = self._stopping
        now = time.monotonic()
        self._metrics.spent("idle", now - start)
        for backend in released:
            self._close(backend)
        for task in cancelled:
            self._end(task, "cancelled")
        for task in late:
            done = f"{task.done_rows:.0f} of {task.network_rows} network rows were evaluated"
            self._fail(task, DeadlinePassedError(f"the deadline passed when {done}"))
        gone = cancelled.union(late)
        for task in arrived:
            if task not in gone:
                self._resume(task, None)
        for task, advance in advanced:
            if task in self._tasks:
                if task.heavy:
                    self._pace.thought(now - task.since)
                self._proceed(task, advance)
        for task, external, reply in replied:
            if task.external is reply:  # not so if the task has ended
                self._wake(task, external, reply)
        self._metrics.spent("update", time.monotonic() - now)
        return not stopping

    def _close(self, backend: Backend) -> None:
        self._calls.forget(backend)
        self._pace.forget(backend)
        try:
            backend.close()
        except Exception:  # must not end the thread
            _log.exception("closing a network")

    def _news(self) -> bool:
        return any((self._inbox, self._cancelled, self._replied, self._advanced, self._released))

    def _call(self, key: Key, timed: Sequence[Task], urgent: set[Task]) -> None:
        """One network call for rows of many tasks, `urgent` ones of the `timed` first."""
        start = time.monotonic()
        most = self._calls.largest(key)
        if not key.fixed:
            most = min(most, self._pace.hurried(key.network, timed, start))
        call = self._turns.pack(key, start, key.network.costs.up_to(most), urgent)
        for each in call.slices:
            if not each.owner.begun:
                each.owner.begun = start
                self._metrics.queue_seconds.labels(each.owner.model).observe(start - each.owner.submitted)
        try:
            outputs = self._calls.run(key, call.slices, call.size)
        except Exception as error:
            self._recover(key, call, error)
            self._turns.spent(key, time.monotonic() - start, call)
            return
        ran, kind = time.monotonic(), kind_of(call.slices)
        # A task resumed on the second thread cannot rejoin in time for the next call: do it only if that one is full
        # without the task.
        row, aside = 0, [each.owner not in urgent and self._turns.covers(key, each, call) for each in call.slices]
        for each, covered in zip(call.slices, aside, strict=True):
            self._deliver(each, [output[row : row + each.rows] for output in outputs], covered)
            row += each.rows
        done = time.monotonic()
        self._metrics.statistics.handed_out(key.network.served, call.rows, done - ran)
        self._metrics.spent("update", done - ran)
        self._turns.spent(key, done - start, call)
        self._pace.note(key.network, kind, call.size, done - start)
        if kind == "network":
            self._metrics.drifted(key.network.name, self._pace.slowness(key.network))

    def _recover(self, key: Key, call: Call[Task], error: Exception) -> None:
        """After a call that raised: smaller ones, or each task's rows alone, since one must not fail the others'."""
        if isinstance(error, OutOfMemoryError) and not key.fixed and self._calls.shrink(key.network, call.size, error):
            self._turns.restore(key, call)
        elif len(call.slices) == 1 or isinstance(error, OutOfMemoryError | UnavailableError):
            for each in call.slices:
                self._reject(key, each.owner, error)
        else:
            for each in call.slices:
                self._call_alone(key, each, call.size)

    def _call_alone(self, key: Key, part: Slice[Task], size: int) -> None:
        try:
            outputs = self._calls.run(key, (part,), size if key.fixed else key.network.costs.holding(part.rows))
        except Exception as error:
            self._reject(key, part.owner, error)
        else:
            self._deliver(part, outputs)

    def _reject(self, key: Key, task: Task, error: Exception) -> None:
        name = key.network.name
        told = {"request_id": task.request_id}
        _log.warning("network %s failed on rows of a request for %s: %s", name, task.model, error, extra=told)
        known = isinstance(error, InputError | OutOfMemoryError | UnavailableError)
        self._fail(task, error if known else NetworkFailedError(f"network {name!r} failed: {error}"))

    def _deliver(self, part: Slice[Task], outputs: list[Array], aside: bool = False) -> None:
        task, evaluation = part.owner, current(part.owner)
        name, calls = evaluation.network.name, self._calls
        self._metrics.evaluated(name, evaluation.kind, part.rows)
        task.spent.took_part(name, evaluation.kind, part.rows, calls.rows, calls.began, calls.last)
        if part.rows == evaluation.rows:
            task.replies = outputs
        else:
            if not task.replies:
                task.replies = [np.empty((evaluation.rows, *output.shape[1:]), output.dtype) for output in outputs]
            for whole, output in zip(task.replies, outputs, strict=True):
                if output.shape[1:] != whole.shape[1:]:
                    shapes = [list(each.shape[1:]) for each in (whole, output)]
                    text = f"expected rows of one shape, got {shapes[0]} in one call and {shapes[1]} in another"
                    self._fail(task, NetworkFailedError(f"network {name!r} failed: {text}"))
                    return
                whole[part.first : part.stop] = output
        task.missing -= part.rows
        task.done_rows += part.rows * evaluation.weight
        if not task.missing and task not in self._cancelled:
            self._resume(task, task.replies, aside)

    def _resume(self, task: Task, reply: list[Array] | None, aside: bool = False) -> None:
        """Advance a task's program to its next step, or to its end; `aside`, while the network runs other rows."""
        task.evaluation, task.replies = None, []
        if task.state is not State.READY:
            task.become(State.READY)
        if task.heavy or aside:
            task.become(State.COMPUTING)
            self._second_thread.advance(task, reply)
        else:
            self._proceed(task, lambda: task.advance(reply))

    def _advanced_on_second_thread(self, task: Task, advance: Advance) -> None:
        """A task has its next step; called on the second thread."""
        with self._condition:
            self._advanced.append((task, advance))
            self._condition.notify()

    def _proceed(self, task: Task, advance: Advance) -> None:
        """Queue a task's next rows, park it, or end it."""
        try:
            step = advance()
            if isinstance(step, External):
                self._park(task, step)
                return
            if isinstance(step, Product):
                raise TypeError("expected products of heavy tasks alone")
        except StopIteration as stop:
            self._forget(task)
            with contextlib.suppress(InvalidStateError):  # the caller left meanwhile
                task.future.set_result(stop.value)
            return
        except BaseException as error:
            self._fail(
                task, error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
            )
            return
        if step.rows < 1:
            self._fail(task, ValueError(f"network {step.network.name!r}: expected rows to evaluate, got none"))
            return
        if not step.announced:
            task.network_rows += math.ceil(step.rows * step.weight)
        task.become(State.QUEUED)
        task.evaluation, task.missing = step, step.rows
        self._turns.add(task, step, time.monotonic())

    def _park(self, task: Task, external: External) -> None:
        """Start what is evaluated elsewhere; whoever finishes it rings."""

        def ring(future: "Future[list[Array]]") -> None:
            with self._condition:
                self._replied.append((task, external, future))
                self._condition.notify()

        task.become(State.PARKED)
        task.external = external.start()
        task.external.add_done_callback(ring)

    def _wake(self, task: Task, external: External, reply: "Future[list[Array]]") -> None:
        """Resume a parked task with its reply, or fail it with the reason why there is none."""
        parked, task.external = task.become(State.READY), None
        task.spent.asked(external.name, external.kind, external.rows, task.since - parked, task.since)
        try:
            outputs = reply.result()
        except CancelledError:
            self._fail(task, ExternalError(f"{external.kind} {external.name!r}: its evaluation was cancelled"))
        except Exception as error:
            if external.rows:
                self._metrics.external_failed(external.name, error)
            self._fail(task, error)
        else:
            if external.rows:
                self._metrics.evaluated(external.name, external.kind, external.rows)
                self._metrics.external_seconds.labels(external.name).observe(parked)
            self._resume(task, outputs)

    def _fail(self, task: Task, error: Exception) -> None:
        self._end(task, "deadline" if isinstance(error, DeadlinePassedError) else "failed")
        with contextlib.suppress(InvalidStateError):  # the caller left meanwhile
            task.future.set_exception(error)

    def _end(self, task: Task, reason: str) -> None:
        """Take a task's rows out, and close its program on the thread that it runs on."""
        if task in self._tasks:
            if task.backlog:
                self._metrics.reclaimed.labels(task.model, reason).inc(task.backlog)
            # a caller whose own clock said so first has cancelled the call
            if reason == "deadline" or (reason == "cancelled" and task.deadline <= time.monotonic() + _ABOUT_S):
                self._metrics.deadline_misses.labels(task.model).inc()
        away = task.heavy or task.state is State.COMPUTING
        self._forget(task)
        if away:
            self._second_thread.close(task)
        else:
            task.close()

    def _forget(self, task: Task) -> None:
        self._turns.drop(task)
        with self._condition:
            if self._tasks.pop(task, task) is None:
                self._metrics.used(task.identity, task.spent)
            external, task.external = task.external, None
            if task.state is not State.ENDED:
                task.become(State.ENDED)
        if external is not None:
            external.cancel()


def awaited(task: Task) -> bool:
    """Whether somebody still waits for a task's result."""
    return not task.background and not task.future.cancelled()
