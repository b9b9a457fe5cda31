"""Whose rows go into the next call: pure, so that its promises can be tested.

Deficit round-robin by rows: an owner that was served `QUANTUM` rows has its next turn when the others have had theirs.
A quantum is what a common request takes in all, so most are served in the order in which they came: taking turns more
often would only make everybody wait for everybody. Before turns come priorities, and who has waited for long rises in
them. Owners that would else miss their deadline are let through first, by deadline (`urgent`, see `admission`).

Evaluations of at most `SHORT` rows go before long ones for as long as they take no more than half of the rows,
however many long ones wait; and as a call takes what its rows cost, rows of those that come later only fill a call up
as far as it does not cost more than `STRETCH` times what it would without them.
"""

import heapq
from collections.abc import Callable, Collection, Hashable, Set
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Generic, TypeVar

from serving.backends.costs import Costs

Owner = TypeVar("Owner", bound=Hashable)

FIRST, DEFAULT, LAST = 1, 5, 9
"""Priorities that a request may have; smaller ones go before larger ones."""
BACKGROUND = 10
"""Served when nobody else waits, however long that takes."""
QUANTUM = 256
SHORT = 8
AGEING_S = 2.0
"""Seconds of waiting that are worth one priority."""
STRETCH = 2.0
MOST_BALANCE = 64
"""How many rows short ones may be behind or ahead of long ones before that is forgotten."""


@dataclass(eq=False)
class Waiting(Generic[Owner]):
    """Rows first..total of an owner's evaluation are still to be run.

    Attributes:
        since: when it came or was last served.
        used: rows its owner was served, as far as they count against it.
        born: in which order its owner came.
    """

    owner: Owner
    total: int
    priority: int
    deadline: float
    since: float
    used: int
    born: int
    first: int = 0

    @property
    def left(self) -> int:
        return self.total - self.first

    @property
    def short(self) -> bool:
        return self.total <= SHORT

    def level(self, now: float) -> int:
        """Its priority, risen by its wait."""
        if self.priority == BACKGROUND:
            return BACKGROUND
        return max(FIRST, self.priority - int((now - self.since) / AGEING_S))


@dataclass(frozen=True)
class Slice(Generic[Owner]):
    """Rows first..stop of an owner's evaluation; `used` is what its owner had been served before."""

    waiting: Waiting[Owner]
    first: int
    stop: int
    used: int

    @property
    def owner(self) -> Owner:
        return self.waiting.owner

    @property
    def rows(self) -> int:
        return self.stop - self.first


@dataclass(frozen=True)
class Call(Generic[Owner]):
    """Slices that are run together, filled up to `size` rows; `balance` is what their queue's was before."""

    slices: tuple[Slice[Owner], ...]
    size: int
    balance: int = 0

    @property
    def rows(self) -> int:
        return sum(each.rows for each in self.slices)


class Queue(Generic[Owner]):
    """Rows that wait for one network, at most one evaluation of an owner at a time."""

    def __init__(self) -> None:
        self._waiting: dict[Owner, Waiting[Owner]] = {}
        self._used: dict[Owner, int] = {}
        self._turn = 0
        self._balance = 0  # rows of short ones less those of long ones, since both waited
        self._births: dict[Owner, int] = {}
        self._numbers = count()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, owner: Owner) -> bool:
        return owner in self._waiting

    @property
    def owners(self) -> Collection[Owner]:
        return self._waiting.keys()

    @property
    def rows(self) -> int:
        return sum(each.left for each in self._waiting.values())

    def add(self, owner: Owner, rows: int, *, now: float, priority: int = DEFAULT, deadline: float = inf) -> None:
        """An owner's next evaluation. While it was away it saved up nothing."""
        used = max(self._used.get(owner, 0), self._turn)
        born = self._births.setdefault(owner, next(self._numbers))
        self._waiting[owner] = Waiting(owner, rows, priority, deadline, now, used, born)

    def drop(self, owner: Owner) -> None:
        """Take out an owner's rows and forget it."""
        self._waiting.pop(owner, None)
        self._used.pop(owner, None)
        self._births.pop(owner, None)

    def covers(self, rows: int, total: int, priority: int) -> bool:
        """Whether so many rows wait that need not let an evaluation of `total` rows and this priority go first."""
        equals = (each for each in self._waiting.values() if each.priority <= priority)
        return sum(each.left for each in equals if each.short or total > SHORT) >= rows

    def restore(self, call: Call[Owner]) -> None:
        """Put back the rows of a call that was not run."""
        self._balance = call.balance
        for each in call.slices:
            each.waiting.first = min(each.waiting.first, each.first)
            each.waiting.used = each.used
            self._used[each.owner] = each.waiting.used
            self._waiting[each.owner] = each.waiting

    def urgency(self, now: float, urgent: Collection[Owner] = ()) -> tuple[int, bool]:
        """How early the most urgent of its rows are to be served, compared with other queues': the least is first."""
        return min((each.level(now), each.owner not in urgent) for each in self._waiting.values())

    def pack(self, now: float, costs: Costs, urgent: Collection[Owner] = ()) -> Call[Owner]:
        """Take out the rows of the next call: at least one, unless none waits."""
        waiting = list(self._waiting.values())
        if any(each.priority != BACKGROUND for each in waiting):
            waiting = [each for each in waiting if each.priority != BACKGROUND]
        self._turn = max(self._turn, min((each.used for each in waiting), default=0))
        levels = {each.owner: each.level(now) for each in waiting}
        first = min((each.priority for each in waiting), default=0)
        mixed = len({each.short for each in waiting if each.priority == first}) > 1
        shorts_first = mixed and self._balance <= 0

        def place(each: Waiting[Owner], used: int) -> Place:
            hurry = each.owner in urgent
            due, late = (each.deadline, False) if hurry else (0.0, shorts_first and not each.short)
            turn = 0 if hurry else used // QUANTUM
            return levels[each.owner], not hurry, due, late, turn, each.born

        served = _served(waiting, costs.choose(sum(each.left for each in waiting)), place)
        # as they were asked for: those that only waited for long must not make calls small
        leads = {each for each, _ in served if each.priority == first and (each.short or not shorts_first)}
        slices, balance = [], self._balance
        for each, rows in _stretched(served, leads, costs):
            if not rows:
                continue
            slices.append(Slice(each, each.first, each.first + rows, each.used))
            each.first, each.since = each.first + rows, now
            # what shorts are let ahead is not held against them later, when it would hold them up
            ahead = self._turn + QUANTUM if shorts_first and each.short else inf
            each.used = self._used[each.owner] = int(min(each.used + rows, max(each.used, ahead)))
            if mixed:
                balance += rows if each.short else -rows
            if not each.left:
                del self._waiting[each.owner]
        before, self._balance = self._balance, max(-MOST_BALANCE, min(MOST_BALANCE, balance))
        return Call(tuple(slices), costs.holding(sum(each.rows for each in slices)), before)


Place = tuple[int, bool, float, bool, int, int]
Served = list[tuple[Waiting[Owner], int]]


def _served(
    waiting: list[Waiting[Owner]], capacity: int, place: Callable[[Waiting[Owner], int], Place]
) -> Served[Owner]:
    """Rows of each, in order of who came to the front first."""
    heap = [(place(each, each.used), each) for each in waiting]
    heapq.heapify(heap)
    rows: dict[Waiting[Owner], int] = {}
    while heap and capacity:
        _, each = heapq.heappop(heap)
        had = rows.get(each, 0)
        left = each.left - had
        taken = min(left, capacity, left if each.short else QUANTUM - (each.used + had) % QUANTUM)
        rows[each] = had + taken
        capacity -= taken
        if taken < left:
            heapq.heappush(heap, (place(each, each.used + rows[each]), each))
    return list(rows.items())


def _stretched(served: Served[Owner], leads: Set[Waiting[Owner]], costs: Costs) -> Served[Owner]:
    """Without the rows beside the leads' that would hold those up."""
    lead = sum(rows for each, rows in served if each in leads)
    room = costs.within(STRETCH * costs.seconds(lead)) - lead if lead else inf
    kept: Served[Owner] = []
    for each, rows in served:
        taken = rows if each in leads else int(max(0, min(rows, room)))
        room -= 0 if each in leads else taken
        kept.append((each, taken))
    return kept
