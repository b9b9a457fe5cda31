"""Estimates from calls: what requests will take, and how small deadlines make calls."""

from collections.abc import Generator
from math import inf
from typing import Any, cast

import pytest

from serving.backends.costs import Costs
from serving.engine.admission import Demand
from serving.engine.pace import DEAR, DEARER, LITTLE_S, SAFETY, SPARE, Pace
from serving.engine.task import Network, Task

COSTS = Costs({size: 1e-3 + 2e-3 * size for size in (2, 3, 4, 6, 8, 12, 16, 24, 32)})
FLAT = Costs(dict.fromkeys((2, 4, 8, 16, 64), 1e-3))


def network(costs: Costs = COSTS) -> Network:
    return Network("net", cast("Any", object()), costs)


def task(on: Network | None, rows: int, at_once: int, deadline: float = inf) -> Task:
    def program() -> Generator[Any, Any, None]:
        yield

    return Task(
        model="model", program=program(), network_rows=rows, network=on, rows_at_once=at_once, deadline=deadline
    )


def demand(pace: Pace, each: Task, *others: Task) -> Demand:
    return pace.demands([each, *others])[0]


def test_a_request_takes_its_rows_at_a_price_and_its_calls_one_after_another():
    net, pace = network(), Pace()
    alone = demand(pace, task(net, 120, 2, deadline=7.0))
    small, smaller = COSTS.at_price(DEAR), COSTS.at_price(DEARER)
    assert smaller < small
    assert alone.seconds == pytest.approx(SAFETY * 120 * COSTS.seconds(small) / small)
    assert alone.alone == pytest.approx(SAFETY * 60 * COSTS.seconds(smaller))
    assert alone.deadline == 7.0
    crowded = demand(pace, task(net, 120, 2, deadline=7.0), task(net, 10**5, 1, deadline=100.0))
    assert crowded.seconds == alone.seconds
    assert crowded.alone == pytest.approx(SAFETY * 60 * COSTS.seconds(small))
    assert demand(pace, task(None, 0, 1, deadline=7.0)).seconds == 0


def test_a_network_whose_calls_all_cost_the_same_is_not_taken_to_be_slow():
    """One row a call would be 64 times the price."""
    assert demand(Pace(), task(network(FLAT), 640, 1)).seconds == pytest.approx(SAFETY * 640 * 1e-3 / 64)


def test_estimates_follow_what_calls_take():
    pace, net = Pace(), network()
    before = demand(pace, task(net, 100, 1)).seconds
    for _ in range(200):
        pace.note(net, "network", 8, 3 * COSTS.seconds(8))
    assert demand(pace, task(net, 100, 1)).seconds == pytest.approx(3 * before, rel=1e-3)
    for _ in range(20000):
        pace.note(net, "reward", 8, 1.0)
    assert demand(pace, task(net, 100, 1)).seconds == pytest.approx(6 * before, rel=1e-3)  # rewards at most double it
    pace.forget(net.backend)
    pace.note(net, "network", 8, COSTS.seconds(8))
    assert demand(pace, task(net, 100, 1)).seconds < 3 * before


def test_rows_may_cost_more_while_little_that_has_a_deadline_waits():
    pace, net, other = Pace(), network(), network()
    chain, rows = task(net, 10, 1, 5.0), int(LITTLE_S / COSTS.row_s)
    cheap, dear = demand(pace, chain), demand(pace, chain, task(net, rows, 1, 50.0))
    assert cheap.alone < dear.alone
    assert demand(pace, chain, task(net, rows - 20, 1, 50.0)) == cheap
    assert demand(pace, chain, task(net, 10 * rows, 1)) == cheap  # it can wait
    assert demand(pace, chain, task(other, 10 * rows, 1, 50.0)) == cheap  # it waits elsewhere


def test_calls_are_as_small_as_the_nearest_deadline_needs_but_not_dear():
    pace, net = Pace(), network()
    assert pace.hurried(net, [task(net, 60, 1)], now=0.0) == 32  # nobody is in a hurry
    for size in (12, 16, 24):
        deadline = 60 * COSTS.seconds(size) / SPARE * 1.001
        assert pace.hurried(net, [task(net, 60, 1, deadline), task(net, 60, 1, 100.0)], now=0.0) == size
        assert pace.hurried(net, [task(network(), 60, 1, deadline)], now=0.0) == 32
    hopeless = task(net, 60, 1, deadline=0.01)
    assert pace.hurried(net, [hopeless], now=0.0) == COSTS.at_price(DEARER)
    assert pace.hurried(net, [hopeless, task(net, 10**6, 1, 1e6)], now=0.0) == COSTS.at_price(DEAR)
