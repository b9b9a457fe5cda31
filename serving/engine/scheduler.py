"""Whose rows go into the next call: pure, so that its promises can be tested.

Requests are served by how much work is left of them, the least first (`least_work`): a small request then never waits
for a large one to end, and the mean slowdown, latency over the time a request would take alone, is close to the
smallest that any order gives (`benchmarks/fairness.py`). Before that order come deadlines that would else be missed
(`urgent`, see `admission`) and priorities. For every `AGEING_S` seconds in which a request was not served it rises one
priority and its work counts half, so that none waits for ever.

Requests of several identities take turns: whoever had the least of the calls' seconds goes first (`shares`), and the
order above is that of each identity's own requests. A hundred requests of one are then no reason for another to wait.

A call has leads and others. The first in order leads. So do the next ones with up to `PEER` times its work left, and
larger ones as long as joining costs the leads less slowdown than it saves, as where calls are cheaper for being
shared. The others fill the call up to `STRETCH` times what the leads alone would cost: large requests keep getting rows
while small ones come, and small ones are at most that much slower for it.
"""

from collections import deque
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from itertools import count
from math import inf
from typing import Generic, TypeVar

from serving.backends.costs import EAGER, Costs
from serving.engine.shares import GRACE_S, Shares

Owner = TypeVar("Owner", bound=Hashable)

FIRST, DEFAULT, LAST = 1, 5, 9
"""Priorities that a request may have; smaller ones go before larger ones."""
BACKGROUND = 10
"""The priority of rows that are served only when no others wait, however long that takes."""
AGEING_S = 2.0
"""Seconds without service that are worth one priority, and half of the work left."""
STRETCH = 1.5
"""Most seconds of a call, in seconds of a call of its leads alone."""
PEER = 2.0
"""Requests with at most this many times another's work left count as equals: they share calls, and may go first while
the other's state is updated."""


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of network calls that a request takes if nothing else runs: what is left, and the whole."""

    left: float
    whole: float


UNKNOWN = Work(1.0, 1.0)


@dataclass(eq=False, slots=True)
class Waiting(Generic[Owner]):
    """Rows first..total of an owner's evaluation are still to be run.

    Attributes:
        since: when the owner came or was last served, in seconds on any clock.
        came: when the owner's first evaluation came.
        born: in which order the owners came.
        served: rows that the owner was served before, of this evaluation and earlier ones.
        identity: whose the owner is.
    """

    owner: Owner
    total: int
    priority: int
    deadline: float
    since: float
    came: float
    born: int
    work: Work
    served: int = 0
    first: int = 0
    identity: str = ""

    @property
    def left(self) -> int:
        return self.total - self.first

    def level(self, now: float) -> int:
        """Its priority, raised by the time without service."""
        if self.priority == BACKGROUND:
            return BACKGROUND
        return max(FIRST, self.priority - int((now - self.since) / AGEING_S))


Order = Callable[[Waiting[Owner], float], float]
"""The place of an owner at a time among those of its level: the least is first, equal ones as they came."""


def least_work(waiting: Waiting[Owner], now: float) -> float:
    """Least work left first; it counts half for every `AGEING_S` seconds without service."""
    return waiting.work.left * 0.5 ** ((now - waiting.since) / AGEING_S)


@dataclass(frozen=True, slots=True)
class Slice(Generic[Owner]):
    """Rows first..stop of an owner's evaluation; `since` is when its owner had been served before."""

    waiting: Waiting[Owner]
    first: int
    stop: int
    since: float

    @property
    def owner(self) -> Owner:
        return self.waiting.owner

    @property
    def rows(self) -> int:
        return self.stop - self.first


@dataclass(frozen=True)
class Call(Generic[Owner]):
    """Slices that are run together, filled up to `size` rows."""

    slices: tuple[Slice[Owner], ...]
    size: int

    @property
    def rows(self) -> int:
        return sum(each.rows for each in self.slices)


class Queue(Generic[Owner]):
    """Rows that wait for one network, at most one evaluation of an owner at a time."""

    def __init__(self, order: "Order[Owner]" = least_work) -> None:
        self._order = order
        self._waiting: dict[Owner, Waiting[Owner]] = {}
        self._owners: dict[Owner, Waiting[Owner]] = {}  # the last evaluation of each
        self._numbers = count()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, owner: Owner) -> bool:
        return owner in self._waiting

    @property
    def owners(self) -> Collection[Owner]:
        return self._waiting.keys()

    @property
    def identities(self) -> set[str]:
        """Whose rows wait, but for those of the background."""
        return {each.identity for each in self._waiting.values() if each.priority != BACKGROUND}

    @property
    def rows(self) -> int:
        return sum(each.left for each in self._waiting.values())

    @property
    def least_left(self) -> float:
        """Seconds of work left of the owner with the least; there must be one."""
        return min(each.work.left for each in self._waiting.values())

    def add(
        self,
        owner: Owner,
        rows: int,
        *,
        now: float,
        work: Work = UNKNOWN,
        priority: int = DEFAULT,
        deadline: float = inf,
        identity: str = "",
    ) -> None:
        """An owner's next evaluation."""
        before = self._owners.get(owner)
        came, born, served = (
            (now, next(self._numbers), 0) if before is None else (before.came, before.born, before.served)
        )
        waiting = Waiting(owner, rows, priority, deadline, now, came, born, work, served, identity=identity)
        self._owners[owner] = self._waiting[owner] = waiting

    def drop(self, owner: Owner) -> None:
        """Take out an owner's rows and forget it."""
        self._waiting.pop(owner, None)
        self._owners.pop(owner, None)

    def covers(self, rows: int, work: Work, priority: int) -> bool:
        """Whether `rows` rows wait of requests that may go before one with this work and priority.

        Those with up to `PEER` times its work left count, so that equal requests take turns on the network while their
        states are updated; a small request is not held up for large ones.
        """
        peers = (e for e in self._waiting.values() if e.priority <= priority and e.work.left <= PEER * work.left)
        return sum(each.left for each in peers) >= rows

    def restore(self, call: Call[Owner]) -> None:
        """Put back the rows of a call that was not run."""
        for each in call.slices:
            waiting = each.waiting
            waiting.served -= waiting.first - min(waiting.first, each.first)
            waiting.first, waiting.since = min(waiting.first, each.first), each.since
            self._waiting[each.owner] = waiting

    def place(self, now: float, urgent: Collection[Owner] = ()) -> tuple[int, bool]:
        """Where the first of its rows stand among other queues': the least place is first."""
        return min((each.level(now), each.owner not in urgent) for each in self._waiting.values())

    def pack(
        self, now: float, costs: Costs, urgent: Collection[Owner] = (), shares: Shares | None = None
    ) -> Call[Owner]:
        """Take out the rows of the next call: at least one, unless none waits.

        Args:
            shares: of identities, where there are several.
        """
        waiting = list(self._waiting.values())
        if any(each.priority != BACKGROUND for each in waiting):
            waiting = [each for each in waiting if each.priority != BACKGROUND]

        def place(each: Waiting[Owner]) -> tuple[int, bool, float, int]:
            hurries = each.owner in urgent
            key = each.deadline if hurries else self._order(each, now)
            return each.level(now), not hurries, key, each.born

        waiting.sort(key=place)
        if shares is not None:
            waiting = _in_turns(waiting, shares, urgent, costs.row_s)
        slices = []
        for each, rows in _shared(waiting, costs):
            slices.append(Slice(each, each.first, each.first + rows, each.since))
            each.first, each.served, each.since = each.first + rows, each.served + rows, now
            if not each.left:
                del self._waiting[each.owner]
        return Call(tuple(slices), costs.holding(sum(each.rows for each in slices)))


def _in_turns(
    waiting: Sequence[Waiting[Owner]], shares: Shares, urgent: Collection[Owner], row_s: float
) -> list[Waiting[Owner]]:
    """Requests in order, each identity's in its own, the identities by the seconds that they had and that their rows
    before will take; first those with a deadline that must be kept, unless their identity is far ahead."""
    kept, lines = [], dict[str, deque[Waiting[Owner]]]()
    for each in waiting:
        if each.owner in urgent and shares.ahead(each.identity) <= GRACE_S:
            kept.append(each)
        else:
            lines.setdefault(each.identity, deque()).append(each)
    had = dict.fromkeys(lines, 0.0)
    for each in kept:
        had[each.identity] = had.get(each.identity, 0.0) + each.left * row_s
    turns = [(shares[name] + had[name], place, name) for place, name in enumerate(lines)]
    heapify(turns)
    while turns:
        spent, place, name = turns[0]
        each = lines[name].popleft()
        kept.append(each)
        if lines[name]:
            heapreplace(turns, (spent + each.left * row_s, place, name))
        else:
            heappop(turns)
    return kept


def _shared(waiting: Sequence[Waiting[Owner]], costs: Costs) -> list[tuple[Waiting[Owner], int]]:
    """Rows of each in the next call, of those that have some; `waiting` is in order."""
    if not waiting:
        return []
    leads = _leads(waiting, costs)
    lead_rows = min(sum(each.left for each in waiting[:leads]), costs.usual)
    if leads == len(waiting):
        most = costs.choose(lead_rows)
    else:
        paying = costs.choose(sum(each.left for each in waiting))
        most = max(lead_rows, min(paying, costs.within(STRETCH * costs.seconds(lead_rows))))
    shares = []
    for each in waiting:
        if not most:
            break
        rows = min(each.left, most)
        shares.append((each, rows))
        most -= rows
    return shares


def _leads(waiting: Sequence[Waiting[Owner]], costs: Costs) -> int:
    """How many of those in order lead the next call: the first, its peers, and those whose joining pays.

    It pays if the slowdown that its rows add to the leads before it is at most what it saves: its own wait for a call
    without it, and for all behind it the seconds by which one shared call is cheaper than two.
    """
    asked = min(each.priority for each in waiting)  # who only waited for long does not make calls small
    behind = sum(1 / each.work.whole for each in waiting)
    ahead, rows, leads = 0.0, 0, 0
    for each in waiting:
        weight, more = 1 / each.work.whole, min(each.left, costs.usual - rows)
        behind -= weight
        if leads:
            if not more or each.priority != asked:
                break
            now, then = costs.seconds(rows), costs.seconds(rows + more)
            saved = now * weight + max(0.0, now + costs.seconds(more) - then) * behind
            peer = each.work.left <= PEER * waiting[0].work.left
            if not peer and (then - now) * ahead > EAGER * saved:
                break
        leads, rows, ahead = leads + 1, rows + more, ahead + weight
    return leads
