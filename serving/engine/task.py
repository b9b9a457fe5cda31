"""What the engine runs: tasks, whose programs are generators of evaluations."""

import logging
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from serving.backends import Array, Backend
from serving.backends.costs import Costs
from serving.engine.scheduler import BACKGROUND, DEFAULT
from steering.numerics.tiles import Matrix

_log = logging.getLogger(__name__)

Kind = Literal["network", "reward"]


@dataclass(frozen=True, eq=False)
class Network:
    """A backend under the name its rows are counted by, and what its calls cost."""

    name: str
    backend: Backend
    costs: Costs


@dataclass(frozen=True)
class Evaluation:
    """Rows for one network: `feeds` [rows, ...] by input name; the reply is the named outputs, [rows, ...] each.

    `announced`: whether its task's `network_rows` counted them from the start.
    """

    network: Network
    feeds: Mapping[str, Array]
    outputs: Sequence[str]
    rows: int
    kind: Kind = "network"
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
    kind: Kind = "reward"


@dataclass(frozen=True)
class Product:
    """Rows [rows, d] to be multiplied by a matrix [d, k], of a heavy task; the reply is one array [rows, k]."""

    matrix: Matrix
    x: Tensor


Step = Evaluation | External | Product
Routine = Generator[Step, list[Array], Any]


@dataclass(eq=False)
class Task:
    """A running program.

    Attributes:
        network_rows: how many network rows it will ask for (exact for tables, else a bound); what it could not know
            beforehand joins them when it is asked for.
        network: what most of them are for; None where there are none to estimate.
        width: rows it asks for at a time.
        bytes: memory it holds, about.
        background: served only when no other rows wait.
        heavy: computes much between its evaluations.
        deterministic: its rows run in calls of one size, where the size of its calls may change a row's bits.
        deadline: when nobody wants the answer any more, on time.monotonic()'s clock.
        external: what it waits for while it is parked; `since` is when it last was parked, or came to the engine or to
            the second thread.
        on_second_thread: its program runs on the second thread right now.
    """

    model: str
    program: Routine
    network_rows: int
    network: Network | None = None
    width: int = 1
    bytes: int = 0
    background: bool = False
    heavy: bool = False
    deterministic: bool = False
    priority: int = DEFAULT
    deadline: float = math.inf
    future: "Future[Any]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    evaluation: Evaluation | None = None
    external: "Future[list[Array]] | None" = None
    since: float = field(default_factory=time.monotonic)
    replies: list[Array] = field(default_factory=list)
    done_rows: int = 0
    missing: int = 0
    started: bool = False
    on_second_thread: bool = False

    def advance(self, reply: list[Array] | None) -> Step:
        """The program's next step, after the reply to the last one; None starts it. Raises what the program raises."""
        return next(self.program) if reply is None else self.program.send(reply)

    def close(self) -> None:
        """Close the program; what it raises is logged, since it must not end a thread that all tasks need."""
        try:
            self.program.close()
        except Exception:
            _log.exception("closing a request for %s", self.model)

    @property
    def backlog(self) -> int:
        return max(0, self.network_rows - self.done_rows)

    @property
    def timed(self) -> bool:
        return self.deadline < math.inf

    @property
    def level(self) -> int:
        return BACKGROUND if self.background else self.priority
