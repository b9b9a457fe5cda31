"""The scheduler's promises, for any owners and costs."""

from hypothesis import given
from hypothesis import strategies as st

from serving.backends.costs import Costs
from serving.engine.scheduler import AGEING_S, BACKGROUND, DEFAULT, LAST, QUANTUM, SHORT, STRETCH, Call, Queue

SIZES = (*range(1, 17), *range(18, 33, 2))
totals = st.lists(st.integers(1, 60), min_size=1, max_size=40)
bases = st.floats(0.0, 50.0)
"""Seconds of a call beside a second a row."""


def costs_of(base: float, most: int = 32) -> Costs:
    return Costs({size: base + size for size in SIZES if size <= most})


def queue_of(rows: list[int], priority: int = DEFAULT) -> Queue[int]:
    queue = Queue[int]()
    for owner, total in enumerate(rows):
        queue.add(owner, total, now=0.0, priority=priority)
    return queue


def taken(call: Call[int]) -> dict[int, int]:
    return {each.owner: each.rows for each in call.slices}


@given(totals, bases, st.integers(1, 32))
def test_every_row_runs_exactly_once_and_in_order(rows: list[int], base: float, most: int) -> None:
    queue, reached, costs = queue_of(rows), [0] * len(rows), costs_of(base, most)
    while queue:
        call = queue.pack(0.0, costs)
        assert 0 < call.rows <= call.size <= most
        assert len(taken(call)) == len(call.slices)
        for each in call.slices:
            assert each.first == reached[each.owner] < each.stop
            reached[each.owner] = each.stop
        assert queue.rows == sum(rows) - sum(reached)
    assert reached == rows
    assert queue.pack(0.0, costs).slices == ()


@given(st.lists(st.integers(1, SHORT), min_size=1, max_size=40), bases)
def test_calls_are_as_large_as_pays(rows: list[int], base: float) -> None:
    queue, costs = queue_of(rows), costs_of(base)
    while queue:
        wanted = min(costs.choose(queue.rows), queue.rows)
        assert queue.pack(0.0, costs).rows == wanted


@given(st.integers(1, SHORT), st.lists(st.integers(50, 300), min_size=1, max_size=30), bases)
def test_a_short_one_is_in_every_call_and_at_most_twice_as_slow_as_alone(
    short: int, long: list[int], base: float
) -> None:
    queue, costs = queue_of(long), costs_of(base)
    while queue:
        queue.add(-1, short, now=0.0)
        long_ones = len(queue.owners) > 1
        call = queue.pack(0.0, costs)
        assert taken(call)[-1] == short
        assert costs.seconds(call.size) <= STRETCH * costs.seconds(short)
        if not long_ones:
            break
        assert call.rows - short >= min(short - 1, 1), "long ones starve"


@given(st.integers(5, 40), st.lists(st.integers(50, 300), min_size=1, max_size=30), bases)
def test_many_short_ones_leave_long_ones_their_turns(shorts: int, long: list[int], base: float) -> None:
    queue, costs = queue_of(long), costs_of(base)
    served: dict[int, int] = dict.fromkeys(range(len(long)), 0)
    for _ in range(400):
        for owner in range(-shorts, 0):
            if owner not in queue:
                queue.add(owner, 4, now=0.0)
        for owner, rows in taken(queue.pack(0.0, costs)).items():
            if owner >= 0:
                served[owner] += rows
    fair = sum(served.values()) / max(1, len(served))
    assert fair > 0
    for owner in set(queue.owners) & set(served):
        assert served[owner] >= min(fair, QUANTUM) / 2


@given(st.lists(st.integers(2000, 4000), min_size=2, max_size=8), bases)
def test_long_ones_share_rows_evenly(rows: list[int], base: float) -> None:
    queue, costs, served = queue_of(rows), costs_of(base), [0] * len(rows)
    for _ in range(60):
        for each in queue.pack(0.0, costs).slices:
            served[each.owner] += each.rows
        assert max(served) - min(served) <= QUANTUM + 32
    assert min(served) > 0


@given(totals, bases, st.lists(st.lists(st.integers(1, 60), max_size=5), max_size=20))
def test_the_wait_is_bounded_whoever_comes_later(rows: list[int], base: float, newcomers: list[list[int]]) -> None:
    """Each call takes at least a row, and nobody who comes later is a turn ahead: so many calls are enough."""
    queue, costs = queue_of(rows), costs_of(base)
    owners, waiting = len(rows), set(range(len(rows)))
    most = sum(rows)
    for arriving in newcomers:
        for total in arriving:
            queue.add(owners, total, now=0.0)
            owners += 1
            most += total
        waiting -= set(taken(queue.pack(0.0, costs)))
    calls = len(newcomers)
    while waiting:
        waiting -= set(taken(queue.pack(0.0, costs)))
        calls += 1
        assert calls <= most + len(newcomers)


@given(totals, bases)
def test_priorities_come_first_and_nobody_starves_behind_them(rows: list[int], base: float) -> None:
    queue, costs, starving = queue_of(rows, LAST), costs_of(base), set(range(len(rows)))
    for tick in range(int(AGEING_S * LAST) + sum(rows)):
        if -1 not in queue:
            queue.add(-1, 64, now=float(tick), priority=1)
        served = set(taken(queue.pack(float(tick), costs)))
        assert tick >= AGEING_S or served == {-1}
        starving -= served
    assert not starving


@given(st.integers(1, 20), totals, bases)
def test_those_behind_hold_up_a_priority_at_most_twice(ahead: int, rows: list[int], base: float) -> None:
    queue, costs = queue_of(rows), costs_of(base)
    queue.add(-1, ahead, now=0.0, priority=1)
    call = queue.pack(0.0, costs)
    assert taken(call)[-1] == ahead
    assert costs.seconds(call.size) <= STRETCH * costs.seconds(ahead)


@given(totals, bases)
def test_background_rows_run_when_nothing_else_waits(rows: list[int], base: float) -> None:
    queue, costs = queue_of(rows), costs_of(base)
    queue.add(-1, 5, now=-1e6, priority=BACKGROUND)
    while len(queue.owners) > 1:
        assert -1 not in taken(queue.pack(0.0, costs))
    assert taken(queue.pack(0.0, costs)) == {-1: 5}


@given(totals, bases, st.data())
def test_the_urgent_go_first_by_deadline_and_the_others_as_they_came(
    rows: list[int], base: float, data: st.DataObject
) -> None:
    deadlines = data.draw(st.permutations(range(len(rows))))
    urgent = data.draw(st.sets(st.integers(0, len(rows) - 1)))
    queue, costs = Queue[int](), costs_of(base)
    for owner, total in enumerate(rows):
        queue.add(owner, min(total, SHORT), now=0.0, deadline=float(deadlines[owner]))
    served = []
    while queue:
        served += [each.owner for each in queue.pack(0.0, costs, urgent).slices if each.first == 0]
    first = sorted(urgent, key=lambda owner: deadlines[owner])
    assert served == [*first, *(owner for owner in range(len(rows)) if owner not in urgent)]


@given(totals, bases, st.integers(0, 10))
def test_a_call_put_back_is_as_if_it_had_not_been_taken(rows: list[int], base: float, calls: int) -> None:
    queue, costs = queue_of(rows), costs_of(base)
    for _ in range(calls):
        queue.pack(0.0, costs)
    if queue:
        call = queue.pack(0.0, costs)
        left = queue.rows
        queue.restore(call)
        assert queue.rows == left + call.rows
        assert taken(queue.pack(0.0, costs)) == taken(call)


@given(totals, bases, st.sets(st.integers(0, 39)))
def test_who_is_dropped_is_in_no_later_call(rows: list[int], base: float, gone: set[int]) -> None:
    queue, costs = queue_of(rows), costs_of(base)
    queue.pack(0.0, costs)
    for owner in gone:
        queue.drop(owner)
    while queue:
        assert not gone & set(taken(queue.pack(0.0, costs)))
