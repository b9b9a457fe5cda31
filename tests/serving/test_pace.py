"""Estimates from calls: what requests will take, and how small deadlines make calls."""

from collections.abc import Generator
from math import inf
from typing import Any, cast

import pytest

from serving.costs import Costs
from serving.pace import DEAR, DEARER, LITTLE_S, SAFETY, SPARE, Pace
from serving.task import Network, Task

COSTS = Costs({size: 1e-3 + 2e-3 * size for size in (2, 3, 4, 6, 8, 12, 16, 24, 32)})
FLAT = Costs(dict.fromkeys((2, 4, 8, 16, 64), 1e-3))


def network(costs: Costs = COSTS) -> Network:
    return Network("net", cast("Any", object()), costs)


def task(on: Network | None, rows: int, width: int, deadline: float = inf) -> Task:
    def program() -> Generator[Any, Any, None]:
        yield

    return Task("model", program(), rows, on, width, deadline=deadline)


def test_a_request_takes_its_rows_at_a_price_and_its_calls_one_after_another():
    net = network()
    demand = Pace().demand(task(net, 120, 2, deadline=7.0))
    small = COSTS.at_price(DEAR)
    assert demand.seconds == pytest.approx(SAFETY * 120 * COSTS.seconds(small) / small)
    assert demand.alone == pytest.approx(SAFETY * 60 * COSTS.seconds(small))
    assert demand.deadline == 7.0
    assert Pace().demand(task(net, 120, 2), DEARER).alone < demand.alone
    assert Pace().demand(task(None, 0, 1, deadline=7.0)).seconds == 0


def test_a_network_whose_calls_all_cost_the_same_is_not_taken_to_be_slow():
    """One row a call would be 64 times the price."""
    assert Pace().demand(task(network(FLAT), 640, 1)).seconds == pytest.approx(SAFETY * 640 * 1e-3 / 64)


def test_estimates_follow_what_calls_take():
    pace, net = Pace(), network()
    before = pace.demand(task(net, 100, 1)).seconds
    for _ in range(200):
        pace.note(net, "network", 8, 3 * COSTS.seconds(8))
    assert pace.demand(task(net, 100, 1)).seconds == pytest.approx(3 * before, rel=1e-3)
    for _ in range(200):
        pace.note(net, "reward", 8, 1.0)
    assert pace.demand(task(net, 100, 1)).seconds == pytest.approx(6 * before, rel=0.1)  # rewards at most double it
    pace.forget(net.backend)
    pace.note(net, "network", 8, COSTS.seconds(8))
    assert pace.demand(task(net, 100, 1)).seconds < 3 * before


def test_rows_may_cost_more_while_little_waits():
    pace, net, other = Pace(), network(), network()
    rows = int(LITTLE_S / COSTS.row_s)
    assert pace.price(net, [task(net, rows - 10, 1)]) == DEARER
    assert pace.price(net, [task(net, rows - 10, 1), task(net, 20, 1)]) == DEAR
    assert pace.price(net, [task(other, 10 * rows, 1)]) == DEARER  # waits elsewhere
    assert pace.price(None, []) == DEAR


def test_calls_are_as_small_as_the_nearest_deadline_needs_but_not_dear():
    pace, net = Pace(), network()
    assert pace.hurried(net, [task(net, 60, 1)], now=0.0) == 32  # nobody is in a hurry
    for size in (12, 16, 24):
        deadline = 60 * COSTS.seconds(size) / SPARE * 1.001
        assert pace.hurried(net, [task(net, 60, 1, deadline), task(net, 60, 1, 100.0)], now=0.0) == size
        assert pace.hurried(net, [task(network(), 60, 1, deadline)], now=0.0) == 32
    hopeless = task(net, 60, 1, deadline=0.01)
    assert pace.hurried(net, [hopeless], now=0.0) == COSTS.at_price(DEARER)
    assert pace.hurried(net, [hopeless, task(net, 10**6, 1)], now=0.0) == COSTS.at_price(DEAR)
