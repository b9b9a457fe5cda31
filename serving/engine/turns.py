"""Which network runs next.

Where several identities wait, it is one of the networks that wait for the one who had the least (`shares`). Of these
first come the rows' places (deadlines, priorities). Networks whose rows have equal ones share the device's time evenly,
but one on which a small request waits, while only large ones wait on the others, gets `FAVOUR` times their time.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from serving.backends import Backend
from serving.backends.costs import Costs
from serving.backends.sizes import FIXED
from serving.engine.scheduler import PEER, Call, Queue, Slice
from serving.engine.shares import GRACE_S, Shares
from serving.engine.task import Evaluation, Network, Task

FAVOUR = 3.0
"""Seconds of the device for a network with small requests, for each second of one with large ones only."""


@dataclass(frozen=True)
class Key:
    """Rows that may share a call: of one network, for the same outputs, of the same shapes where lengths vary; in calls
    of one size only, where `fixed`."""

    network: Network
    outputs: tuple[str, ...]
    fixed: bool = False
    shapes: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(cls, evaluation: Evaluation, deterministic: bool) -> "Key":
        network = evaluation.network
        shapes = tuple(evaluation.feeds[name].shape[1:] for name in network.free)
        return cls(network, tuple(evaluation.outputs), deterministic and not network.backend.invariant, shapes)


class Turns:
    """A queue for each key; keys of one network take turns. A network that had nothing to do saves up no time."""

    def __init__(self) -> None:
        self._queues: dict[Key, Queue[Task]] = {}
        self._spent: dict[Backend, float] = {}  # seconds of each, as far as it counts against it
        self._calls: Counter[Key] = Counter()
        self._of: dict[Task, set[Key]] = {}
        self._users: Counter[Key] = Counter()
        self._identities: Counter[str] = Counter()  # tasks of each in the foreground
        self._shares = Shares()
        self._now = 0.0
        self._favoured: Key | None = None

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def add(self, task: Task, evaluation: Evaluation, now: float) -> None:
        key = Key.of(evaluation, task.deterministic)
        if not self._queues.setdefault(key, Queue()):
            backend = key.network.backend
            if not any(queue for each, queue in self._queues.items() if each.network.backend is backend):
                self._spent[backend] = max(self._spent.get(backend, 0.0), self._now)
        if task not in self._of and not task.background:
            self._identities[task.identity] += 1
        keys = self._of.setdefault(task, set())
        if key not in keys:
            keys.add(key)
            self._users[key] += 1
        if not task.background:
            self._shares.come(task.identity)
        self._queues[key].add(
            task,
            evaluation.rows,
            now=now,
            work=task.work(evaluation),
            priority=task.level,
            deadline=task.deadline,
            identity=task.identity,
        )

    def drop(self, task: Task) -> None:
        """Take out a task's rows and forget it, and queues that nobody uses: clients make keys."""
        if task in self._of and not task.background:
            self._identities[task.identity] -= 1
            if not self._identities[task.identity]:
                del self._identities[task.identity]
        for key in self._of.pop(task, ()):
            self._queues[key].drop(task)
            self._users[key] -= 1
            if not self._users[key]:
                del self._queues[key], self._calls[key], self._users[key]
                if not any(each.network.backend is key.network.backend for each in self._queues):
                    self._spent.pop(key.network.backend, None)

    def next(self, now: float, urgent: Collection[Task]) -> Key | None:
        """The key to run: of the most urgent, the one that had the least time."""
        waiting = [key for key, queue in self._queues.items() if queue]
        if not waiting:
            return None
        if self._several:
            waiting = self._fair(waiting, urgent)

        def place(key: Key) -> tuple[tuple[int, bool], float, int]:
            return self._queues[key].place(now, urgent), self._spent[key.network.backend], self._calls[key]

        self._now = max(self._now, min(self._spent[key.network.backend] for key in waiting))
        self._favoured = self._with_small_requests(waiting)
        return waiting[0] if len(waiting) == 1 else min(waiting, key=place)

    @property
    def _several(self) -> bool:
        """Whether there is more than one identity to share among."""
        return len(self._identities) > 1

    def _fair(self, waiting: list[Key], urgent: Collection[Task]) -> list[Key]:
        """Of the keys those with rows of the identity that had the least, or with deadlines that must be kept."""
        whose = {key: self._queues[key].identities for key in waiting}
        there = set[str]().union(*whose.values())
        if not there:
            return waiting
        # also where one identity waits alone: another whose task is parked meanwhile saves up nothing
        least = self._shares.least(there)
        if len(there) == 1:
            return waiting
        near = {each for each in urgent if self._shares.ahead(each.identity) <= GRACE_S}
        hurried = [key for key in waiting if any(owner in near for owner in self._queues[key].owners)]
        next_ones = {name for name in there if self._shares[name] <= least}
        return hurried or [key for key in waiting if whose[key] & next_ones]

    def _with_small_requests(self, waiting: Sequence[Key]) -> Key | None:
        """The key whose smallest request has clearly less work left than those that wait on other networks."""
        if len(waiting) == 1:
            return None
        least = {key: self._queues[key].least_left for key in waiting}
        smallest = min(waiting, key=least.__getitem__)
        backend = smallest.network.backend
        others = [left for key, left in least.items() if key.network.backend is not backend]
        return smallest if others and min(others) > PEER * least[smallest] else None

    def patience(self, key: Key) -> float:
        """Seconds that are worth waiting for more rows: what a call of those there are costs beyond the best price."""
        rows, costs = self._queues[key].rows, key.network.costs
        return max(0.0, costs.seconds(rows) - rows * costs.row_s) if rows < costs.usual else 0.0

    def pack(self, key: Key, now: float, costs: Costs, urgent: Collection[Task]) -> Call[Task]:
        """The next call of a key's rows."""
        if key.fixed:
            costs = costs.only(costs.up_to(FIXED).largest)
        return self._queues[key].pack(now, costs, urgent, self._shares if self._several else None)

    def covers(self, key: Key, part: Slice[Task], call: Call[Task]) -> bool:
        """Whether the next call is as full as this one without what the owner of a part of this one asks for next."""
        return self._queues[key].covers(call.size, part.waiting.work, part.owner.level)

    def restore(self, key: Key, call: Call[Task]) -> None:
        """Put back a call that was not run."""
        self._queues[key].restore(call)

    def spent(self, key: Key, seconds: float, call: Call[Task]) -> None:
        """Note what a call took, which counts against those whose rows it ran."""
        if self._several:
            for each in call.slices:
                self._shares.charge(each.owner.identity, seconds * each.rows / call.rows)
        if key in self._users:  # not where the call's owners are gone
            self._calls[key] += 1
        if key.network.backend in self._spent:
            self._spent[key.network.backend] += seconds / (FAVOUR if key == self._favoured else 1.0)
