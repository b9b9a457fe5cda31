"""What comes first on the second thread, and how identities share it."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from serving.engine.second_thread import Advance, SecondThread
from serving.engine.task import Product, Routine, Task
from steering.numerics.tiles import Matrix


def task(program: Routine, identity: str = "") -> Task:
    made = Task(model="m", program=program, network_rows=0)
    made.identity = identity
    return made


def matrix() -> Matrix:
    return Matrix(torch.eye(4))


def multiplied(by: Matrix, before: Callable[[], Any] = lambda: None) -> Routine:
    before()
    (reply,) = yield Product(by, torch.ones(1, 4))
    return reply


class Ringing:
    """A second thread that notes who has left it, and how."""

    def __init__(self) -> None:
        self.left: dict[Task, threading.Event] = {}
        self.results: dict[Task, Any] = {}
        self.then: Callable[[Task], None] = lambda task: None
        self.thread = SecondThread(self._ring, lambda seconds: None)

    def begin(self, task: Task) -> threading.Event:
        self.left[task] = left = threading.Event()
        self.thread.advance(task, None)
        return left

    def _ring(self, task: Task, advance: Advance) -> None:
        try:
            advance()
        except StopIteration as stop:
            self.results[task] = stop.value
        self.left[task].set()
        self.then(task)


@pytest.fixture
def ringing() -> Iterator[Ringing]:
    made = Ringing()
    yield made
    made.then = lambda task: None
    made.thread.stop()


def test_a_product_is_made_though_others_come_without_end(ringing: Ringing) -> None:
    def at_once() -> Routine:
        yield from ()
        return np.zeros(1)

    gate = threading.Event()

    def held() -> Routine:
        gate.wait(10)
        yield from ()
        return np.zeros(1)

    def another(_: Task) -> None:
        ringing.begin(task(at_once()))

    ringing.then = another
    ringing.begin(task(held()))
    waits = task(multiplied(matrix()))
    left = ringing.begin(waits)
    for _ in range(2):  # each that leaves brings another one, so that somebody always waits for a turn
        ringing.begin(task(at_once()))
    gate.set()
    assert left.wait(5)
    assert ringing.results[waits].tolist() == [[1, 1, 1, 1]]


def test_who_leaves_while_his_product_is_next_ends_nobody_else(ringing: Ringing) -> None:
    """The identity whose turn it is has nothing left to do, and another one's product waits."""
    gate = threading.Event()

    def held() -> Routine:
        gate.wait(10)
        yield from ()
        return np.zeros(1)

    leaves = task(multiplied(matrix(), lambda: time.sleep(0.3)), "a")
    others = [matrix(), matrix()]

    def closes() -> None:
        ringing.thread.close(leaves)
        time.sleep(0.6)

    stays = [task(multiplied(others[0], closes), "b"), task(multiplied(others[1]), "b")]
    ringing.begin(task(held(), "b"))
    ringing.begin(leaves)
    left = [ringing.begin(each) for each in stays]
    time.sleep(0.1)
    gate.set()
    assert all(each.wait(10) for each in left)
    assert ringing.thread.alive
    assert not ringing.left[leaves].is_set()


def computing(work: Callable[[], object], identity: str) -> Task:
    """A task that does some work and ends."""

    def program() -> Routine:
        work()
        yield from ()

    return Task(model="m", program=program(), network_rows=0, heavy=True, identity=identity)


def test_nobody_pays_for_time_that_no_other_waited_in():
    """Whoever was alone for an hour does not wait for an hour once somebody else comes."""
    ended, all_ended, alone, gate = list[str](), threading.Event(), threading.Event(), threading.Event()

    def ring(task: Task, advance: object) -> None:
        ended.append(task.identity)
        if len(ended) == 21:
            all_ended.set()

    def long() -> None:
        alone.set()
        time.sleep(0.5)
        gate.wait()

    second = SecondThread(ring, lambda seconds: None)
    try:
        second.advance(computing(long, "alice"), None)
        assert alone.wait(20)
        for identity in ("alice", "bob"):
            for _ in range(10):
                second.advance(computing(lambda: time.sleep(0.005), identity), None)
        gate.set()
        assert all_ended.wait(20)
    finally:
        second.stop()
    assert {*ended[1:7]} == {"alice", "bob"}
