"""Packing: every row runs exactly once, calls are full, and nobody waits for ever."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from serving.scheduler import Slice, Waiting, bucket, pack

totals = st.lists(st.integers(1, 60), min_size=1, max_size=40)
capacities = st.integers(1, 40)


def queue_of(rows: list[int]) -> deque[Waiting[int]]:
    return deque(Waiting(owner, total) for owner, total in enumerate(rows))


def size(slices: list[Slice[int]]) -> int:
    return sum(each.stop - each.first for each in slices)


@given(totals, capacities)
def test_every_row_runs_exactly_once_and_in_order(rows: list[int], capacity: int) -> None:
    queue, reached = queue_of(rows), [0] * len(rows)
    while queue:
        for each in pack(queue, capacity):
            assert each.first == reached[each.owner] < each.stop
            reached[each.owner] = each.stop
    assert reached == rows


@given(totals, capacities)
def test_calls_are_as_full_as_they_can_be(rows: list[int], capacity: int) -> None:
    queue, left = queue_of(rows), sum(rows)
    while queue:
        slices = pack(queue, capacity)
        assert size(slices) == min(capacity, left)
        assert len({each.owner for each in slices}) == len(slices)
        left -= size(slices)
        assert left == sum(waiting.left for waiting in queue)
    assert left == 0
    assert pack(queue, capacity) == []


@given(totals, capacities, st.lists(st.lists(st.integers(1, 60), max_size=5), max_size=30))
def test_the_wait_is_bounded_whoever_comes_later(rows: list[int], capacity: int, newcomers: list[list[int]]) -> None:
    queue, owners = queue_of(rows), len(rows)
    within = {owner: place // capacity + 1 for place, owner in enumerate(range(owners))}  # calls until each is served
    for arriving in [*newcomers, *([] for _ in range(sum(rows)))]:
        for owner in range(owners, owners + len(arriving)):
            queue.append(Waiting(owner, arriving[owner - owners]))
            within[owner] = (len(queue) - 1) // capacity + 1
        owners += len(arriving)
        served = {each.owner for each in pack(queue, capacity)}
        within = {owner: calls - 1 for owner, calls in within.items() if owner not in served}
        assert all(within.values()), "an owner was passed over"
        # those served in part have a new turn
        within |= {
            waiting.owner: place // capacity + 1 for place, waiting in enumerate(queue) if waiting.owner in served
        }


@given(totals, capacities)
def test_shares_of_a_call_are_equal_up_to_what_each_needs(rows: list[int], capacity: int) -> None:
    queue = queue_of(rows)
    taken = {each.owner: each.stop - each.first for each in pack(queue, capacity)}
    unsatisfied = [taken[owner] for owner in taken if taken[owner] < rows[owner]]
    if unsatisfied:
        assert max(unsatisfied) - min(unsatisfied) <= 1
        assert all(taken[owner] <= max(unsatisfied) + 1 for owner in taken)  # a row that does not divide


@given(totals, capacities)
def test_who_was_served_in_part_goes_behind_who_was_not(rows: list[int], capacity: int) -> None:
    queue = queue_of(rows)
    served = {each.owner for each in pack(queue, capacity)}
    turns = [waiting.owner in served for waiting in queue]
    assert turns == sorted(turns)


@given(st.integers(1, 4096), st.integers(1, 4096))
def test_buckets_hold_the_rows_and_waste_at_most_a_third(rows: int, largest: int) -> None:
    rows = min(rows, largest)
    size = bucket(rows, largest)
    assert rows <= size <= largest
    assert size <= 2 or (size - rows) * 3 <= size


def test_buckets_have_two_sizes_per_doubling_and_no_row_runs_alone() -> None:
    assert sorted({bucket(rows, 32) for rows in range(1, 33)}) == [2, 3, 4, 6, 8, 12, 16, 24, 32]
    assert sorted({bucket(rows, 20) for rows in range(1, 21)}) == [2, 3, 4, 6, 8, 12, 16, 20]
    assert bucket(1, 1) == 1
