"""What the engine runs: tasks, whose programs are generators of evaluations."""

import logging
import math
import time
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from serving.backends import Array, Backend
from serving.backends.costs import Costs
from serving.engine.references import Feed
from serving.engine.scheduler import BACKGROUND, DEFAULT, Work
from serving.engine.spent import Spent
from steering.numerics.tiles import Matrix

_log = logging.getLogger(__name__)

Kind = Literal["network", "reward"]


@dataclass(frozen=True, eq=False)
class Network:
    """A backend under the name its rows are counted by, and what its calls cost.

    Attributes:
        caution: what every answer that rests on it must say; empty for nothing.
        version: of the model that it is of.
        sizable: its rows may have other lengths than its backend says.
    """

    name: str
    backend: Backend
    costs: Costs
    caution: str = ""
    version: str = ""
    sizable: bool = False
    _others: "weakref.WeakValueDictionary[tuple[int, ...], Network]" = field(
        init=False, repr=False, default_factory=weakref.WeakValueDictionary
    )

    def at(self, row: tuple[int, ...], times: float) -> "Network":
        """This network for rows of another shape, each of which takes so many times as long and as much memory: the
        same one for everybody who asks for that shape, as long as somebody uses it."""
        return self._others.setdefault(row, replace(self, costs=self.costs.times(times)))

    @property
    def served(self) -> tuple[str, str]:
        """The name and the version that its calls are counted by."""
        return self.name, self.version

    @cached_property
    def free(self) -> tuple[str, ...]:
        """Inputs whose rows have a length that varies, in order."""
        return tuple(sorted(each.name for each in self.backend.inputs if None in each.row))


@dataclass(frozen=True)
class Evaluation:
    """Rows for one network: `feeds` [rows, ...] by input name; the reply is the named outputs, [rows, ...] each.

    Attributes:
        announced: whether its task's `network_rows` counted them from the start.
        units: how many rows of the task's own network one of these takes as long as; None for one of a network's rows,
            and for none of a reward's, which are not counted.
    """

    network: Network
    feeds: Mapping[str, Feed]
    outputs: Sequence[str]
    rows: int
    kind: Kind = "network"
    announced: bool = True
    units: float | None = None

    @property
    def weight(self) -> float:
        """What one of its rows is among the task's `network_rows`."""
        return float(self.kind == "network") if self.units is None else self.units


@dataclass(frozen=True)
class External:
    """Rows that are evaluated elsewhere, counted under `name`; no rows: something else is waited for.

    `start` begins and returns at once; it runs on the engine's thread. Its future gives the reply, and cancelling the
    future must end the work, at any time.
    """

    name: str
    rows: int
    start: "Callable[[], Future[list[Array]]]"
    kind: Kind = "reward"


@dataclass(frozen=True)
class Product:
    """Rows [rows, d] to be multiplied by a matrix [d, k], of a heavy task; the reply is one array [rows, k]."""

    matrix: Matrix
    x: Tensor


Step = Evaluation | External | Product
Routine = Generator[Step, list[Array], Any]


class State(Enum):
    """Where a task is. Every change goes through `Task.become`."""

    READY = "the engine's thread has to start or resume it"
    QUEUED = "its rows wait for the network, or are in a call"
    COMPUTING = "its program runs on the second thread"
    PARKED = "its rows are evaluated elsewhere"
    ENDED = "it has a result, failed, or was cancelled"


NEXT: Mapping[State, frozenset[State]] = {
    State.READY: frozenset({State.QUEUED, State.COMPUTING, State.PARKED, State.ENDED}),
    State.QUEUED: frozenset({State.READY, State.ENDED}),
    State.COMPUTING: frozenset({State.QUEUED, State.PARKED, State.ENDED}),
    State.PARKED: frozenset({State.READY, State.ENDED}),
    State.ENDED: frozenset(),
}
"""The states that may follow each."""


@dataclass(eq=False, kw_only=True)
class Task:
    """A running program.

    Attributes:
        network_rows: how many network rows it will ask for (exact for tables, else a bound), those of other networks in
            `units`; what it could not know beforehand joins them when it is asked for.
        network: what most of them are for; None where there are none to estimate.
        rows_at_once: rows it asks for at a time.
        bytes: memory it holds, about.
        background: served only when no other rows wait.
        heavy: computes much between its evaluations.
        identity: whose it is; identities get even shares.
        deterministic: its rows run in calls of one size, where the size of its calls may change a row's bits.
        deadline: when nobody wants the answer any more, on time.monotonic()'s clock.
        state: where it is.
        since: when it came into its state, on time.monotonic()'s clock.
        begun: when its first network call began, on that clock; 0 before.
        external: what it waits for while it is PARKED.
        hint: what the request could ask for instead, said where it is not taken on.
        request_id: how logs call the request that it is for.
        spent: what it has taken so far.
        reward_s: seconds of reward calls between two evaluations of the network, as far as they were seen.
    """

    model: str
    program: Routine
    network_rows: int
    network: Network | None = None
    rows_at_once: int = 1
    bytes: int = 0
    background: bool = False
    heavy: bool = False
    identity: str = ""
    deterministic: bool = False
    priority: int = DEFAULT
    deadline: float = math.inf
    future: "Future[Any]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    state: State = State.READY
    since: float = field(default_factory=time.monotonic)
    evaluation: Evaluation | None = None
    external: "Future[list[Array]] | None" = None
    replies: list[Array] = field(default_factory=list)
    done_rows: float = 0
    missing: int = 0
    begun: float = 0.0
    reward_s: float = 0.0
    hint: str = ""
    request_id: str = ""
    spent: Spent = field(default_factory=Spent)

    def become(self, state: State) -> float:
        """Change the state; the seconds that the last one lasted.

        Raises:
            RuntimeError: no such change is possible.
        """
        if state not in NEXT[self.state]:
            raise RuntimeError(f"a task for {self.model}: expected no change from {self.state.name} to {state.name}")
        now = time.monotonic()
        lasted, self.state, self.since = now - self.since, state, now
        return lasted

    def work(self, evaluation: Evaluation) -> Work:
        """Seconds of calls that the request takes if nothing else runs: from this evaluation on, and as a whole."""
        here = _alone(evaluation.rows, evaluation.rows, evaluation.network.costs)
        if self.network is None or not self.network_rows:
            return Work(here, here)
        if evaluation.kind == "reward" and not evaluation.weight:  # the others are in the backlog
            self.reward_s = max(self.reward_s, here)
        costs = self.network.costs
        left, whole = (_alone(rows, self.rows_at_once, costs) for rows in (self.backlog, self.network_rows))
        rewards = self.reward_s / max(1, min(self.rows_at_once, self.network_rows))
        return Work(max(here, left + rewards * self.backlog), max(here, whole + rewards * self.network_rows))

    def advance(self, reply: list[Array] | None) -> Step:
        """The program's next step, after the reply to the last one; None starts it. Raises what the program raises."""
        start = time.monotonic()
        try:
            return next(self.program) if reply is None else self.program.send(reply)
        finally:
            self.spent.computed(start, time.monotonic())

    def close(self) -> None:
        """Close the program; what it raises is logged, since it must not end a thread that all tasks need."""
        try:
            self.program.close()
        except Exception:
            _log.exception("closing a request for %s", self.model, extra={"request_id": self.request_id})

    @property
    def backlog(self) -> int:
        return max(0, math.ceil(self.network_rows - self.done_rows))

    @property
    def timed(self) -> bool:
        return self.deadline < math.inf

    @property
    def level(self) -> int:
        return BACKGROUND if self.background else self.priority


def _alone(rows: int, rows_at_once: int, costs: Costs) -> float:
    """Seconds of calls for `rows` rows of which `rows_at_once` are asked for at a time, if nothing else runs."""
    together = max(1, min(rows_at_once, rows, costs.largest))
    return rows / together * costs.seconds(together)
