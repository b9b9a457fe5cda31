"""Counts a request as it ends, with how long it took for what: Triton's statistics of a model."""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import grpc

from serving.engine.statistics import Served, Statistics, Times
from serving.engine.task import Task
from serving.fleet.directory import ModelState
from serving.models.pipeline import AnyModel
from serving.wire import errors
from serving.wire.answer import Answer


class Counting:
    """Around the work on one request, from its arrival until its answer is written.

    What another replica takes on, and what is refused because there is too much to do, is not counted: a front decides
    what becomes of these, and counts them if they fail.

    Args:
        listed: the state of a model by name and version, None for a model that there is not.
    """

    def __init__(self, statistics: Statistics, listed: Callable[[str, str], ModelState | None]) -> None:
        self._statistics, self._listed = statistics, listed
        self._came_s, self._began = time.time(), time.monotonic()
        self._asked: Served | None = None
        self._served: Served | None = None
        self._task: Task | None = None
        self._inferences, self._answered = 0, 0.0

    def __enter__(self) -> Self:
        return self

    def asks(self, name: str, version: str) -> None:
        """The model that the request names, which need not exist."""
        self._asked = name, version

    def submitted(self, model: AnyModel, task: Task) -> None:
        """What it became."""
        self._served, self._task = (model.name, model.version), task

    def answered(self, answer: Answer) -> None:
        """Its program has ended."""
        self._answered = time.monotonic()
        before = int(answer.parameters.get("first", 0))  # samples that were sent in groups
        self._inferences = before + len(next(iter(answer.outputs.values()), ()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        now = time.monotonic()
        if error is None and self._served is not None and self._task is not None:
            began = self._task.begun or self._answered  # without a call of its own it did not wait for one
            submitted = self._task.submitted
            times = Times(submitted - self._began, began - submitted, self._answered - began, now - self._answered)
            self._statistics.succeeded(self._served, self._came_s, self._inferences, times)
        elif error is not None and _counts(error) and (served := self._named()) is not None:
            cancelled = isinstance(error, asyncio.CancelledError)
            self._statistics.failed(served, self._came_s, now - self._began, cancelled=cancelled)

    def _named(self) -> Served | None:
        if self._served is not None or self._asked is None:
            return self._served
        state = self._listed(*self._asked)
        return None if state is None else (state.name, state.version)


def _counts(error: BaseException) -> bool:
    refused = isinstance(error, errors.RequestError) and error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    return not refused and not (isinstance(error, errors.RequestError) and error.elsewhere)
