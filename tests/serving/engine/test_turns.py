"""Networks' turns: what is left of them when their rows are gone."""

from typing import Any, cast

import numpy as np

from serving.backends.costs import Costs
from serving.engine.scheduler import Call
from serving.engine.task import Evaluation, Network, Routine, Task
from serving.engine.turns import Turns


def program(asked: Evaluation) -> Routine:
    return (yield asked)


def evaluation(network: Network, output: str) -> Evaluation:
    return Evaluation(network, {"x": np.zeros((1, 1), np.float32)}, (output,), 1)


def test_nothing_is_left_of_keys_that_nobody_uses():
    """Clients make keys; a call may end when its owners have."""
    turns, costs = Turns(), Costs({2: 1.0})
    for number in range(5):
        network = Network("net", cast("Any", object()), costs)
        asked = evaluation(network, f"y{number}")
        task = Task("m", program(asked), 1, network)
        turns.add(task, asked, now=0.0)
        key = turns.next(0.0, ())
        assert key is not None
        call: Call[Task] = turns.pack(key, 0.0, costs, ())
        assert call.rows == 1
        turns.drop(task)
        turns.spent(key, 1.0)
    assert not any((turns._queues, turns._calls, turns._users, turns._of, turns._spent))
