"""The scheduler's promises, for any owners and costs."""

from hypothesis import given
from hypothesis import strategies as st

from serving.backends.costs import Costs
from serving.engine.scheduler import AGEING_S, BACKGROUND, DEFAULT, LAST, STRETCH, Call, Queue, Work
from serving.engine.shares import GRACE_S, Shares

SIZES = (*range(1, 17), *range(18, 33, 2))
totals = st.lists(st.integers(1, 60), min_size=1, max_size=40)
bases = st.floats(0.0, 50.0)
"""Seconds of a call beside a second a row."""


def costs_of(base: float, most: int = 32) -> Costs:
    return Costs({size: base + size for size in SIZES if size <= most})


LARGE, SMALL = Work(500.0, 1000.0), Work(1.0, 5.0)


def queue_of(rows: list[int], priority: int = DEFAULT, work: Work = LARGE) -> Queue[int]:
    queue = Queue[int]()
    for owner, total in enumerate(rows):
        queue.add(owner, total, now=0.0, priority=priority, work=work)
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


@given(totals, bases)
def test_calls_are_as_large_as_pays(rows: list[int], base: float) -> None:
    queue, costs = queue_of(rows), costs_of(base)
    while queue:
        most = min(costs.usual, queue.rows)
        assert min(costs.choose(queue.rows), queue.rows) <= queue.pack(0.0, costs).rows <= most


@given(st.integers(1, 8), st.lists(st.integers(1, 300), min_size=1, max_size=30), bases)
def test_a_small_request_is_in_every_call_and_hardly_slower_than_alone(
    rows: int, large: list[int], base: float
) -> None:
    queue, costs = queue_of(large), costs_of(base)
    for _ in range(50):
        queue.add(-1, rows, now=0.0, work=SMALL)
        call = queue.pack(0.0, costs)
        assert taken(call)[-1] == min(rows, costs.usual)
        assert costs.seconds(call.size) <= STRETCH * costs.seconds(rows) or _saves(call, rows, costs)
        queue.drop(-1)


def _saves(call: Call[int], rows: int, costs: Costs) -> bool:
    """Whether a call that takes longer does because it is cheaper than a second one would be."""
    return costs.seconds(call.size) < costs.seconds(rows) + costs.seconds(max(1, call.rows - rows))


@given(st.integers(2, 40), st.integers(1, 4))
def test_equal_requests_share_calls_that_are_cheaper_for_it(requests: int, rows: int) -> None:
    costs = costs_of(50.0)
    call = queue_of([rows] * requests).pack(0.0, costs)
    assert call.rows >= min(requests * rows, costs.usual) - (rows - 1)


def test_the_least_work_left_goes_first():
    queue, costs, order = Queue[int](), Costs({1: 1.0}), []
    for owner, left in enumerate((30.0, 10.0, 20.0)):
        queue.add(owner, 1, now=0.0, work=Work(left, 100.0))
    while queue:
        order += list(taken(queue.pack(0.0, costs)))
    assert order == [1, 2, 0]


@given(st.integers(1, 40), st.lists(st.integers(50, 300), min_size=1, max_size=8), bases)
def test_large_requests_are_served_however_many_small_ones_come(smalls: int, large: list[int], base: float) -> None:
    """Each call leaves them room, or they rise a level for each `AGEING_S` seconds without service."""
    queue, costs = queue_of(large), costs_of(base)
    unserved, now = set(range(len(large))), 0.0
    for _ in range(600):
        for owner in range(-smalls, 0):
            if owner not in queue:
                queue.add(owner, 4, now=now, work=SMALL)
        unserved -= set(taken(queue.pack(now, costs)))
        now += 0.05
        if not unserved:
            return
    raise AssertionError(f"never served: {unserved}")


@given(totals, bases)
def test_priorities_come_first_and_the_others_wait_for_a_bounded_time(rows: list[int], base: float) -> None:
    queue, costs, starving = queue_of(rows, LAST, Work(1.0, 1.0)), costs_of(base), set(range(len(rows)))
    for tick in range(int(AGEING_S * LAST) + sum(rows)):
        if -1 not in queue:
            queue.add(-1, 64, now=float(tick), priority=1)
        served = set(taken(queue.pack(float(tick), costs)))
        assert tick >= AGEING_S or served == {-1}
        starving -= served
    assert not starving


@given(st.integers(1, 20), totals, bases)
def test_requests_of_lower_priority_hold_up_a_higher_one_little(ahead: int, rows: list[int], base: float) -> None:
    queue, costs = queue_of(rows, work=SMALL), costs_of(base)
    queue.add(-1, ahead, now=0.0, priority=1, work=LARGE)
    call = queue.pack(0.0, costs)
    assert taken(call)[-1] == min(ahead, costs.usual)
    assert costs.seconds(call.size) <= STRETCH * costs.seconds(ahead)


@given(totals, bases)
def test_background_rows_run_when_nothing_else_waits(rows: list[int], base: float) -> None:
    queue, costs = queue_of(rows), costs_of(base)
    queue.add(-1, 2, now=-1e6, priority=BACKGROUND)
    while len(queue.owners) > 1:
        assert -1 not in taken(queue.pack(0.0, costs))
    assert taken(queue.pack(0.0, costs)) == {-1: 2}


@given(totals, bases, st.data())
def test_the_urgent_go_first_by_deadline_and_the_others_as_they_came(
    rows: list[int], base: float, data: st.DataObject
) -> None:
    deadlines = data.draw(st.permutations(range(len(rows))))
    urgent = data.draw(st.sets(st.integers(0, len(rows) - 1)))
    queue, costs = Queue[int](), costs_of(base)
    for owner, total in enumerate(rows):
        queue.add(owner, min(total, 8), now=0.0, deadline=float(deadlines[owner]))
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


@given(st.lists(st.tuples(st.integers(1, 60), st.floats(1, 1000)), min_size=1, max_size=40), bases, st.data())
def test_with_one_identity_the_order_is_that_of_requests_alone(
    requests: list[tuple[int, float]], base: float, data: st.DataObject
) -> None:
    """Whatever its name is, and whether it is asked for shares."""
    name, costs, shares = data.draw(st.sampled_from(["", "alice"])), costs_of(base), Shares()
    alone, named = Queue[int](), Queue[int]()
    for owner, (rows, left) in enumerate(requests):
        alone.add(owner, rows, now=0.0, work=Work(left, 1000.0))
        named.add(owner, rows, now=0.0, work=Work(left, 1000.0), identity=name)
        shares.come(name)
    while alone:
        assert taken(alone.pack(0.0, costs)) == taken(named.pack(0.0, costs, shares=shares))


@given(st.lists(st.tuples(st.integers(1, 60), st.sampled_from("abc")), min_size=1, max_size=40), bases)
def test_every_row_of_several_identities_runs_once(requests: list[tuple[int, str]], base: float) -> None:
    queue, costs, shares, reached = Queue[int](), costs_of(base), Shares(), [0] * len(requests)
    for owner, (rows, name) in enumerate(requests):
        queue.add(owner, rows, now=0.0, work=LARGE, identity=name)
        shares.come(name)
    while queue:
        call = queue.pack(0.0, costs, shares=shares)
        assert call.slices
        for each in call.slices:
            assert each.first == reached[each.owner] < each.stop
            reached[each.owner] = each.stop
            shares.charge(requests[each.owner][1], costs.seconds(call.size) * each.rows / call.rows)
    assert reached == [rows for rows, _ in requests]


def seconds_of(
    requests: dict[str, tuple[int, int, int]], base: float, calls: int, urgent: str = ""
) -> dict[str, float]:
    """Seconds that identities get in so many calls, each with so many requests of so many rows, of a priority, that
    are asked for again as soon as they were answered."""
    queue, costs, shares = Queue[tuple[str, int]](), costs_of(base), Shares()
    had, now = dict.fromkeys(requests, 0.0), 0.0
    for _ in range(calls):
        for name, (count, rows, priority) in requests.items():
            for each in range(count):
                if (name, each) not in queue:
                    shares.come(name)
                    work = Work(float(rows), float(rows))
                    queue.add((name, each), rows, now=now, work=work, priority=priority, deadline=1.0, identity=name)
        shares.least(queue.identities)
        hurried = {owner for owner in queue.owners if owner[0] == urgent}
        call = queue.pack(now, costs, hurried, shares)
        seconds = costs.seconds(call.size)
        for part in call.slices:
            shares.charge(part.owner[0], seconds * part.rows / call.rows)
            had[part.owner[0]] += seconds * part.rows / call.rows
        now += seconds
    return had


@given(st.integers(1, 100), st.integers(1, 100), st.integers(20, 60), st.integers(20, 60), bases, st.booleans())
def test_identities_get_even_shares_however_much_they_ask_for(
    many: int, few: int, rows: int, others: int, base: float, urgent: bool
) -> None:
    """A hundred requests of the first priority, or with a deadline each, against one of the last."""
    requests = {"a": (many, rows, 1), "b": (few, others, LAST)}
    had = seconds_of(requests, base, 60, "a" if urgent else "")
    longest = costs_of(base).seconds(32)
    assert abs(had["a"] - had["b"]) <= 2 * longest + (GRACE_S if urgent else 0.0)


def test_one_request_is_not_behind_the_hundred_of_another():
    """It is in the first call after it came, and in every call until it is answered."""
    queue, costs, shares = Queue[str](), costs_of(0.0), Shares()
    for each in range(100):
        shares.come("a")
        queue.add(f"a{each}", 4, now=0.0, work=SMALL, identity="a")
    for _ in range(5):
        shares.least(queue.identities)
        for part in queue.pack(0.0, costs, shares=shares).slices:
            shares.charge("a", float(part.rows))
    shares.come("b")
    queue.add("b", 60, now=0.0, work=LARGE, identity="b")
    while "b" in queue:
        shares.least(queue.identities)
        call = queue.pack(0.0, costs, shares=shares)
        assert call.slices[0].owner == "b" or shares["a"] <= shares["b"]
        for part in call.slices:
            shares.charge(part.owner[0], costs.seconds(call.size) * part.rows / call.rows)
    assert queue.rows > 200


def test_who_had_nothing_to_do_saved_up_nothing():
    shares = Shares()
    shares.come("a")
    shares.come("b")
    for _ in range(100):
        shares.charge("a", 1.0)
        shares.least({"a"})
    shares.come("b")
    assert shares["b"] == shares["a"] == 100.0
    for number in range(5000):  # names that come once are not kept
        shares.come(f"c{number}")
    assert len(shares._spent) < 1100
