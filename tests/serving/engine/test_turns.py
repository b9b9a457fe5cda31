"""Networks' turns: what is left of them when their rows are gone."""

from typing import Any, cast

import numpy as np

from serving.backends import GraphTensor
from serving.backends.costs import Costs
from serving.backends.sizes import FIXED
from serving.engine.calls import current
from serving.engine.scheduler import Call
from serving.engine.task import Evaluation, Network, Routine, Task
from serving.engine.turns import FAVOUR, Turns


class Even:
    """A backend whose rows' bits are the same in calls of every size."""

    invariant = True
    inputs = (GraphTensor("x", np.dtype(np.float32), (1,)),)


class Varying(Even):
    """A backend whose rows' bits depend on the size of a call."""

    invariant = False


class Free(Even):
    """A backend whose rows have a length that varies."""

    inputs = (GraphTensor("x", np.dtype(np.float32), (None,)),)


def program(asked: Evaluation) -> Routine:
    return (yield asked)


def evaluation(network: Network, output: str) -> Evaluation:
    return Evaluation(network, {"x": np.zeros((1, 1), np.float32)}, (output,), 1)


def test_nothing_is_left_of_keys_that_nobody_uses():
    """Clients make keys; a call may end when its owners have."""
    turns, costs = Turns(), Costs({2: 1.0})
    for number in range(5):
        network = Network("net", cast("Any", Even()), costs)
        asked = evaluation(network, f"y{number}")
        task = Task(model="m", program=program(asked), network_rows=1, network=network)
        turns.add(task, asked, now=0.0)
        key = turns.next(0.0, ())
        assert key is not None
        call: Call[Task] = turns.pack(key, 0.0, costs, ())
        assert call.rows == 1
        turns.drop(task)
        turns.spent(key, 1.0, call)
    assert not any((turns._queues, turns._calls, turns._users, turns._of, turns._spent))


def test_who_is_parked_saves_up_no_turns():
    """A task that waits for its client lets the others' rows run, and has none of that time back later."""
    turns, costs = Turns(), Costs({1: 1.0})
    network = Network("net", cast("Any", Even()), costs)
    asked = evaluation(network, "y")

    def come(identity: str) -> Task:
        task = Task(model="m", program=program(asked), network_rows=1, network=network, identity=identity)
        turns.add(task, asked, now=0.0)
        return task

    def run() -> str:
        key = turns.next(0.0, ())
        assert key is not None
        call: Call[Task] = turns.pack(key, 0.0, costs, ())
        turns.spent(key, 1.0, call)
        return call.slices[0].owner.identity

    bob = come("bob")
    run()
    for _ in range(50):
        alice = come("alice")
        assert run() == "alice"
        turns.drop(alice)
    order = []
    for _ in range(10):
        turns.add(bob, asked, now=0.0)
        alice = come("alice")
        order.append(run())
        turns.drop(alice)
    assert 4 <= order.count("bob") <= 6


def served(small_left: int, large_left: int, calls: int = 400) -> tuple[float, float]:
    """Seconds of two networks on which requests with `small_left` and `large_left` rows to go keep one row waiting."""
    turns, costs, seconds = Turns(), Costs({1: 1.0}), {}
    networks = [Network(name, cast("Any", Even()), costs) for name in ("small", "large")]
    for network, rows in zip(networks, (small_left, large_left), strict=True):
        asked = evaluation(network, "y")
        seconds[network] = 0.0
        turns.add(Task(model="m", program=program(asked), network_rows=rows, network=network), asked, now=0.0)
    for _ in range(calls):
        key = turns.next(0.0, ())
        assert key is not None
        (part,) = (call := turns.pack(key, 0.0, costs, ())).slices
        turns.spent(key, 1.0, call)
        seconds[key.network] += 1.0
        turns.add(part.owner, evaluation(key.network, "y"), now=0.0)
    return seconds[networks[0]], seconds[networks[1]]


def test_networks_share_the_device_evenly_and_one_with_small_requests_gets_more():
    small, large = served(small_left=100, large_left=110)
    assert abs(small - large) <= 1
    small, large = served(small_left=5, large_left=200)
    assert abs(small / large - FAVOUR) < 0.05


def test_calls_of_one_size_hold_all_rows_that_fit():
    """They cost the same however few there are, so what a better price is worth does not matter."""
    costs = Costs({size: 1e-3 * size for size in range(1, 65)})
    network = Network("net", cast("Any", Varying()), costs)
    asked = Evaluation(network, {"x": np.zeros((40, 1), np.float32)}, ("y",), 40)
    turns, task = Turns(), Task(model="m", program=program(asked), network_rows=40, network=network, deterministic=True)
    turns.add(task, asked, now=0.0)
    key = turns.next(0.0, ())
    assert key is not None
    assert key.fixed
    calls = [turns.pack(key, 0.0, costs, ()) for _ in range(2)]
    assert [(call.rows, call.size) for call in calls] == [(FIXED, FIXED), (40 - FIXED, FIXED)]


def test_rows_of_different_lengths_never_share_a_call():
    """Each length has a queue of its own, which goes when nobody uses it."""
    turns, costs = Turns(), Costs({8: 1.0})
    network = Network("net", cast("Any", Free()), costs)
    tasks = []
    for length in (3, 5, 3):
        asked = Evaluation(network, {"x": np.zeros((2, length), np.float32)}, ("y",), 2)
        tasks.append(Task(model="m", program=program(asked), network_rows=2, network=network))
        tasks[-1].evaluation = asked
        turns.add(tasks[-1], asked, now=0.0)
    calls = []
    while (key := turns.next(0.0, ())) is not None:
        call = turns.pack(key, 0.0, costs, ())
        calls.append({current(each.owner).feeds["x"].shape[1] for each in call.slices})
        turns.spent(key, 1.0, call)
    assert sorted(map(sorted, calls)) == [[3], [5]]
    for task in tasks:
        turns.drop(task)
    assert not any((turns._queues, turns._calls, turns._users, turns._of, turns._spent))
