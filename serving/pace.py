"""How fast the engine has been lately: from what calls were measured to cost, to what requests will really take."""

from collections.abc import Iterable, Sequence
from math import inf

from serving.admission import Demand
from serving.backends import Backend
from serving.costs import Costs
from serving.task import Kind, Network, Task

SMOOTHING = 0.05
"""How fast estimates follow what calls do."""
DEAR, DEARER = 1.1, 1.25
"""What a row may cost in calls that deadlines make small, in best prices: the more while little waits,"""
LITTLE_S = 1.0
"""which is less than so many seconds of calls."""
SPARE = 0.8
"""How much of the time until a deadline is planned for."""
SAFETY = 1.1
"""How many times what the last calls say a request is taken to last: those that are taken on should be in time."""
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

    def price(self, network: Network | None, tasks: Iterable[Task]) -> float:
        """What a row may cost beside these tasks, in best prices."""
        if network is None:
            return DEAR
        backend = network.backend
        rows = sum(each.backlog for each in tasks if each.network is not None and each.network.backend is backend)
        return DEARER if rows * network.costs.row_s * self._slowness.get(backend, 1.0) < LITTLE_S else DEAR

    def demand(self, task: Task, price: float = DEAR) -> Demand:
        """What is left of a task; where nothing else ran, its calls would be those in which a row costs the price.

        What it waits for elsewhere, and computes itself, is not in it.
        """
        if task.network is None:
            return Demand(0.0, task.priority, task.deadline)
        costs, rows = task.network.costs, task.backlog
        own = self._seconds["network"]
        share = min(MOST_SHARE, 1 + self._seconds["reward"] / own) if own else 1.0
        pace = SAFETY * self._slowness.get(task.network.backend, 1.0) * share
        small = costs.at_price(DEAR)
        alone = _stages(task, costs) * costs.seconds(max(costs.at_price(price), task.width))
        return Demand(pace * rows * costs.seconds(small) / small, task.priority, task.deadline, pace * alone)

    def hurried(self, network: Network, tasks: Sequence[Task], now: float) -> int:
        """The size of calls in which all tasks still have time for all of their evaluations, as far as its price is
        not too high."""
        costs, pace = network.costs, self._slowness.get(network.backend, 1.0)
        seconds = (
            (task.deadline - now) / max(1, _stages(task, costs))
            for task in tasks
            if task.timed and task.network is not None and task.network.backend is network.backend
        )
        if (least := min(seconds, default=inf)) == inf:
            return costs.largest
        return max(costs.at_price(self.price(network, tasks)), costs.within(least * SPARE / pace))


def _stages(task: Task, costs: Costs) -> int:
    """Calls that what is left of a task takes, one after another."""
    return -(-task.backlog // min(task.width, costs.largest))
