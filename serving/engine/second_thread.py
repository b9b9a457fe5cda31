"""The second thread: what tasks compute between their evaluations, so that the network goes on meanwhile.

Tasks that ask for products with one matrix share them: a product of a few rows takes as long as reading the matrix, so
tasks that one network call has brought here advance until each waits for a product, and then all of them are made.
Those that come later do not put a product off: under load they would come without end.

Tasks are taken as they come; those of several identities in turns, by the seconds that each identity had here.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from serving.backends import Array
from serving.engine.shares import Shares
from serving.engine.task import Product, Step, Task
from steering.numerics.tiles import Matrix

Advance = Callable[[], Step]


class SecondThread:
    """Advances programs on a thread of its own.

    Args:
        ring: called on that thread with a task and its next step, once that is no product; calling the step gives it or
            raises what the program raised, StopIteration at its end.
        spent: called with seconds of work.
    """

    def __init__(self, ring: Callable[[Task, Advance], None], spent: Callable[[float], None]) -> None:
        self._ring, self._spent = ring, spent
        self._condition = threading.Condition()
        self._inboxes: dict[str, deque[tuple[Task, list[Array] | None]]] = {}  # by identity, none of them empty
        self._shares = Shares()  # only this thread touches it
        self._closing: deque[Task] = deque()
        # only this thread touches these: who waits for a product, the steps until now, and that after which it is made
        self._products: dict[Matrix, dict[Task, Tensor]] = {}
        self._steps, self._due = 0, dict[Matrix, int]()
        self._here: set[Task] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="second", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a task is here."""
        return bool(self._here)

    @property
    def alive(self) -> bool:
        """Whether the thread runs; it ends by itself only through a bug."""
        return self._thread.is_alive()

    def advance(self, task: Task, reply: list[Array] | None) -> None:
        """Send a program the reply to its last step; None starts it."""
        with self._condition:
            self._here.add(task)
            self._inboxes.setdefault(task.identity, deque()).append((task, reply))
            self._condition.notify()

    def close(self, task: Task) -> None:
        """Close a program, wherever it is; it does not ring."""
        with self._condition:
            self._closing.append(task)
            self._condition.notify()

    def stop(self) -> None:
        """End the thread when programs that were to be closed are."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()

    def _loop(self) -> None:
        torch.set_num_threads(1)  # counts for this thread, as in the engine's; the other cores are for the network
        while True:
            with self._condition:
                while not (self._inboxes or self._closing or self._products or self._stopping):
                    self._condition.wait()
                closing, self._closing = list(self._closing), deque()
                if self._stopping and not closing:
                    return
                self._take_out(closing)
                whose, others = self._next()
                wanted = self._wanted(whose)
                arrived = None if wanted is not None and self._due[wanted] <= self._steps else self._taken(whose)
            start = time.monotonic()
            for task in closing:
                self._close(task)
            if arrived is not None:
                self._steps += 1
                self._step(*arrived)
            elif wanted is not None and wanted in self._products:  # not so if all that waited for it were closed
                self._multiply(wanted)
            seconds = time.monotonic() - start
            if others:
                self._shares.charge(whose, seconds)
            self._spent(seconds)

    def _next(self) -> tuple[str, bool]:
        """Whose work is next, and whether others wait: only time that they waited counts against somebody."""
        there = {*self._inboxes, *(task.identity for waiting in self._products.values() for task in waiting)}
        if len(there) < 2:
            return next(iter(there), ""), False
        for name in there:
            self._shares.come(name)
        least = self._shares.least(there)
        return next(name for name in there if self._shares[name] <= least), True

    def _wanted(self, whose: str) -> Matrix | None:
        """The matrix of the product that an identity asked for longest ago; None for none."""
        mine = (each for each, tasks in self._products.items() if any(task.identity == whose for task in tasks))
        return next(mine, None)

    def _taken(self, whose: str) -> tuple[Task, list[Array] | None] | None:
        """The first reply that came for a task of an identity; None where only products wait."""
        if whose not in self._inboxes:
            return None
        first = self._inboxes[whose].popleft()
        if not self._inboxes[whose]:
            del self._inboxes[whose]
        return first

    def _take_out(self, closing: Collection[Task]) -> None:
        """Forget replies for tasks that are to be closed."""
        for name in {task.identity for task in closing} & self._inboxes.keys():
            self._inboxes[name] = deque(each for each in self._inboxes[name] if each[0] not in closing)
            if not self._inboxes[name]:
                del self._inboxes[name]

    def _close(self, task: Task) -> None:
        for matrix in [matrix for matrix, waiting in self._products.items() if task in waiting]:
            del self._products[matrix][task]
            if not self._products[matrix]:
                del self._products[matrix], self._due[matrix]
        task.close()
        with self._condition:
            self._here.discard(task)

    def _step(self, task: Task, reply: list[Array] | None) -> None:
        """To the next step that is no product."""
        try:
            step = task.advance(reply)
        except BaseException as error:
            self._leave(task, _raiser(error))
        else:
            if isinstance(step, Product):
                self._wait(task, step)
            else:
                self._leave(task, lambda: step)

    def _wait(self, task: Task, product: Product) -> None:
        """For a product, which is made once the tasks that are here now have had their turn, at the latest."""
        if product.matrix not in self._products:
            with self._condition:
                self._due[product.matrix] = self._steps + sum(map(len, self._inboxes.values()))
        self._products.setdefault(product.matrix, {})[task] = product.x

    def _leave(self, task: Task, advance: Advance) -> None:
        with self._condition:
            self._here.discard(task)
        self._ring(task, advance)

    def _multiply(self, matrix: Matrix) -> None:
        """One product for all tasks that wait for one with this matrix."""
        waiting = self._products.pop(matrix)
        del self._due[matrix]
        start = time.monotonic()
        try:
            whole = matrix.times(torch.cat(list(waiting.values())))
        except Exception as error:  # memory
            for task in waiting:
                self._leave(task, _raiser(error))
            return
        each_s = (time.monotonic() - start) / len(waiting)
        for task, part in zip(waiting, whole.split([len(x) for x in waiting.values()]), strict=True):
            task.spent.computed(start, start + each_s)
            self._step(task, [part.numpy()])


def _raiser(error: BaseException) -> Advance:
    def again() -> Step:
        raise error

    return again
