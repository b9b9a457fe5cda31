"""Whether a request's deadline can be met, from what was taken on already: pure.

The engine is one server that can finish admitted work by order of priority and, within one, of deadlines (earliest
deadline first, which meets all deadlines if any order does). A request is taken on only if it and all that were taken
on before it are then done in time; so those that are late are told at once, not after they have waited.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

MARGIN = 2.0
"""Work is let through when so many times its own seconds, and those before it, are left until its deadline."""


class DeadlineError(Exception):
    """A request that cannot be done in time, or would make others late; one line with the estimate."""


@dataclass(frozen=True)
class Demand:
    """What is left of a request: `seconds` of the engine's time, and `alone`, how long it takes if nothing else runs.

    `deadline` is a time, on any clock.
    """

    seconds: float
    priority: int
    deadline: float = inf
    alone: float = 0.0

    @property
    def rank(self) -> tuple[int, float]:
        return self.priority, self.deadline

    @property
    def least(self) -> float:
        """How long it takes at least, from when it is its turn."""
        return max(self.seconds, self.alone)


def finish(new: Demand, others: Iterable[Demand], now: float) -> float:
    """When the new one would be done, after all of its rank or before it."""
    ahead = sum(each.seconds for each in others if each.rank <= new.rank)
    return now + ahead + new.least


def check(new: Demand, others: Sequence[Demand], now: float, then: Sequence[Demand] | None = None) -> None:
    """Raises DeadlineError with the estimate where a deadline would be missed, the new one's or another's.

    Args:
        then: what the others will need beside the new one, if it is not the same.
    """
    then = others if then is None else then
    if new.deadline < (done := finish(new, then, now)):
        raise DeadlineError(
            f"deadline in {max(0.0, new.deadline - now):.3g} s cannot be met: the estimate is {done - now:.3g} s, "
            f"{new.alone:.3g} s if nothing else ran"
        )
    before, after = now, now
    for each, beside in sorted(zip(others, then, strict=True), key=lambda pair: pair[0].rank):
        added = new.seconds if each.rank > new.rank else 0.0
        if before + each.least <= each.deadline < after + added + beside.least:
            raise DeadlineError(
                f"{new.seconds:.3g} s more would make a request late that was taken on before, due in "
                f"{each.deadline - now:.3g} s with {before + each.least - now:.3g} s of work until then"
            )
        before, after = before + each.seconds, after + beside.seconds


def urgent(demands: Sequence[Demand], now: float) -> list[int]:
    """Which of them must be served by deadline from now on: those before the last one with no more than `MARGIN` times
    what it and those before it take."""
    timed = sorted((i for i, each in enumerate(demands) if each.deadline < inf), key=lambda i: demands[i].deadline)
    work, last = 0.0, 0
    for place, i in enumerate(timed, 1):
        if MARGIN * (work + demands[i].least) >= demands[i].deadline - now:
            last = place
        work += demands[i].seconds
    return timed[:last]
