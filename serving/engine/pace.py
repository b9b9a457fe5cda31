"""How fast the engine has been lately: from what calls were measured to cost, to what requests will really take."""

from collections.abc import Iterable, Sequence
from math import inf

from serving.backends import Backend
from serving.backends.costs import Costs
from serving.engine.admission import Demand
from serving.engine.task import Kind, Network, Task

SMOOTHING = 0.05
"""How fast estimates follow what calls do."""
DEAR = 1.1
"""What a row may cost in calls that deadlines make small, in prices of the best size."""
DEARER, LITTLE_S = 1.25, 1.0
"""What it may cost while all that has a deadline is less than so many seconds of calls."""
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
        self._between = 0.0

    def note(self, network: Network, kind: Kind, size: int, seconds: float) -> None:
        """A call of so many rows, all that the engine did for it included, took so long."""
        for each in self._seconds:
            self._seconds[each] *= 1 - SMOOTHING
        self._seconds[kind] += seconds
        if kind == "network":
            slowness = self._slowness.get(network.backend, 1.0)
            self._slowness[network.backend] = slowness + SMOOTHING * (seconds / network.costs.seconds(size) - slowness)

    def thought(self, seconds: float) -> None:
        """What a heavy task computed between two evaluations took, its wait for the second thread included."""
        usual = min(seconds, 4 * self._between + 0.01)  # not what is done once, to grow a bank say
        self._between += SMOOTHING * (usual - self._between)

    def slowness(self, network: Network) -> float:
        """How many times what they were measured to cost its last calls took."""
        return self._slowness.get(network.backend, 1.0)

    def forget(self, backend: Backend) -> None:
        self._slowness.pop(backend, None)

    def demands(self, tasks: Sequence[Task]) -> list[Demand]:
        """What is left of tasks, if there are no others. What they wait for elsewhere is not in it."""
        prices = {backend: self._price(backend, tasks) for backend in {_backend(each) for each in tasks}}
        return [self._demand(each, prices[_backend(each)]) for each in tasks]

    def hurried(self, network: Network, tasks: Sequence[Task], now: float) -> int:
        """The size of calls in which all tasks still have time for all of their evaluations, as far as its price is
        not too high."""
        costs, pace = network.costs, self._slowness.get(network.backend, 1.0)
        seconds = (
            (task.deadline - now) / max(1, _stages(task, costs)) - self._thinks(task)
            for task in tasks
            if task.timed and _backend(task) is network.backend
        )
        if (least := min(seconds, default=inf)) == inf:
            return costs.largest
        return max(costs.at_price(self._price(network.backend, tasks)), costs.within(least * SPARE / pace))

    def _price(self, backend: Backend | None, tasks: Iterable[Task]) -> float:
        """What a row of a backend may cost. What has no deadline does not count: it must not make others late."""
        if backend is None:
            return DEAR
        seconds = sum(
            each.backlog * each.network.costs.row_s
            for each in tasks
            if each.timed and each.network is not None and each.network.backend is backend
        )
        return DEARER if seconds * self._slowness.get(backend, 1.0) < LITTLE_S else DEAR

    def _demand(self, task: Task, price: float) -> Demand:
        """Its calls are taken to be those in which a row costs the price, if nothing else ran, and else `DEAR` ones."""
        if task.network is None:
            return Demand(0.0, task.priority, task.deadline)
        costs, (network_s, reward_s) = task.network.costs, (self._seconds["network"], self._seconds["reward"])
        share = min(MOST_SHARE, 1 + reward_s / network_s) if network_s else MOST_SHARE if reward_s else 1.0
        pace = SAFETY * self._slowness.get(task.network.backend, 1.0) * share
        small = costs.at_price(DEAR)
        call, stages = costs.seconds(max(costs.at_price(price), task.rows_at_once)), _stages(task, costs)
        alone = stages * (pace * call + SAFETY * self._thinks(task))
        return Demand(pace * task.backlog * costs.seconds(small) / small, task.priority, task.deadline, alone)

    def _thinks(self, task: Task) -> float:
        """Seconds of a task between two evaluations."""
        return self._between if task.heavy else 0.0


def _backend(task: Task) -> Backend | None:
    return None if task.network is None else task.network.backend


def _stages(task: Task, costs: Costs) -> int:
    """Calls that what is left of a task takes, one after another."""
    return -(-task.backlog // min(task.rows_at_once, costs.largest))
