"""Admission against a server that runs what was taken on by rank: whoever was admitted is done in time."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.admission import DeadlineError, Demand, check, finish, urgent

demands = st.builds(
    Demand,
    seconds=st.floats(0.01, 10.0),
    priority=st.integers(1, 3),
    deadline=st.one_of(st.just(inf), st.floats(0.1, 60.0)),
    alone=st.one_of(st.just(0.0), st.floats(0.0, 30.0)),
)


def ends(taken: list[Demand]) -> list[float]:
    """When each is done by rank from time 0, if others run while one that takes longer waits for itself."""
    order = sorted(range(len(taken)), key=lambda i: taken[i].rank)
    now, done = 0.0, [0.0] * len(taken)
    for i in order:
        done[i] = now + taken[i].least
        now += taken[i].seconds
    return done


@given(st.lists(demands, max_size=30))
def test_whoever_is_taken_on_is_in_time_and_whoever_is_refused_would_not_be_or_would_make_others_late(
    arriving: list[Demand],
) -> None:
    taken: list[Demand] = []
    for new in arriving:
        late_with = any(
            end > each.deadline + 1e-9 for each, end in zip([*taken, new], ends([*taken, new]), strict=True)
        )
        try:
            check(new, taken, 0.0)
        except DeadlineError:
            assert any(end > each.deadline - 1e-9 for each, end in zip([*taken, new], ends([*taken, new]), strict=True))
        else:
            assert not late_with
            taken.append(new)


@given(st.lists(demands, max_size=10), demands, st.floats(0.0, 5.0))
def test_the_estimate_counts_what_is_ahead_and_no_less_than_it_takes_alone(
    others: list[Demand], new: Demand, now: float
) -> None:
    done = finish(new, others, now)
    assert done >= now + new.seconds
    assert done == pytest.approx(now + new.least + sum(each.seconds for each in others if each.rank <= new.rank))
    slow = Demand(new.seconds, new.priority, new.deadline, alone=1000.0)
    assert finish(slow, [], now) == now + 1000.0


def test_the_refusal_says_the_estimate() -> None:
    with pytest.raises(DeadlineError, match=r"deadline in 1 s cannot be met: the estimate is 6 s, 3 s if nothing else"):
        check(Demand(2.0, 5, 11.0, alone=3.0), [Demand(3.0, 5, 10.5)], 10.0)
    with pytest.raises(DeadlineError, match=r"2 s more would make a request late that was taken on before, due in 4 s"):
        check(Demand(2.0, 5, 3.0), [Demand(3.0, 5, 4.0)], 0.0)


def test_whoever_was_taken_on_keeps_the_time_that_its_evaluations_take_one_after_another() -> None:
    chain = Demand(1.0, 5, 10.0, alone=6.0)
    check(Demand(3.5, 5, 9.0), [chain], 0.0)
    with pytest.raises(
        DeadlineError, match=r"would make a request late that was taken on before, due in 10 s with 6 s"
    ):
        check(Demand(4.5, 5, 9.0), [chain], 0.0)
    with pytest.raises(DeadlineError, match=r"would make a request late"):  # it takes longer beside the new one
        check(Demand(0.1, 5, inf), [chain], 0.0, [Demand(1.0, 5, 10.0, alone=11.0)])
    check(Demand(0.1, 5, inf), [Demand(1.0, 5, 10.0, alone=12.0)], 0.0)  # it will be late anyway


@given(st.lists(demands, max_size=20))
def test_those_are_urgent_that_would_be_late_if_others_went_first(waiting: list[Demand]) -> None:
    chosen = set(urgent(waiting, 0.0))
    rest = [each for i, each in enumerate(waiting) if i not in chosen and each.deadline < inf]
    for each in rest:
        before = sum(other.seconds for other in waiting if other.deadline <= each.deadline)
        assert before < each.deadline
    assert all(waiting[i].deadline < inf for i in chosen)
