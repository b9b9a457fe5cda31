"""How fast the engine has been lately: from what calls were measured to cost, to what requests will really take."""

from collections.abc import Iterable
from math import inf

from serving.admission import Demand
from serving.backends import Backend
from serving.costs import Costs
from serving.task import Kind, Network, Task

SMOOTHING = 0.05
"""How fast estimates follow what calls do."""
SMALL = 8
"""Rows of the smallest calls that deadlines may ask for: smaller ones cost too much a row."""
SPARE = 0.8
"""How much of the time until a deadline is planned for."""
MOST_SHARE = 2.0
"""Networks share the device's time evenly, so rewards at most double what a request takes."""


class Pace:
    """Estimates from calls. Rewards' time is on the requests whose rows wait meanwhile."""

    def __init__(self) -> None:
        self._slowness: dict[Backend, float] = {}
        self._seconds: dict[Kind, float] = {"network": 0.0, "reward": 0.0}

    def note(self, network: Network, kind: Kind, size: int, seconds: float) -> None:
        """A call of so many rows, all that the engine did for it included, took so long."""
        for each in self._seconds:
            self._seconds[each] *= 1 - SMOOTHING
        self._seconds[kind] += seconds
        if kind == "network":
            slowness = self._slowness.get(network.backend, 1.0)
            self._slowness[network.backend] = slowness + SMOOTHING * (seconds / network.costs.seconds(size) - slowness)

    def forget(self, backend: Backend) -> None:
        self._slowness.pop(backend, None)

    def demand(self, task: Task) -> Demand:
        """What is left of a task. What it waits for elsewhere, and computes itself, is not in it."""
        if task.network is None:
            return Demand(0.0, task.priority, task.deadline)
        costs, rows = task.network.costs, task.backlog
        own = self._seconds["network"]
        share = min(MOST_SHARE, 1 + self._seconds["reward"] / own) if own else 1.0
        pace = self._slowness.get(task.network.backend, 1.0) * share
        small = costs.holding(SMALL)
        alone = _stages(task, costs) * max(costs.seconds(small), costs.seconds(task.width))
        return Demand(pace * rows * costs.seconds(small) / small, task.priority, task.deadline, pace * alone)

    def hurried(self, network: Network, timed: Iterable[Task], now: float) -> int:
        """The size of calls, at least `SMALL`, in which these tasks still have time for all of their evaluations."""
        costs, pace = network.costs, self._slowness.get(network.backend, 1.0)
        seconds = (
            (task.deadline - now) / max(1, _stages(task, costs))
            for task in timed
            if task.network is not None and task.network.backend is network.backend
        )
        return max(costs.holding(SMALL), costs.within(min(seconds, default=inf) * SPARE / pace))


def _stages(task: Task, costs: Costs) -> int:
    """Calls that what is left of a task takes, one after another."""
    return -(-task.backlog // min(task.width, costs.largest))
