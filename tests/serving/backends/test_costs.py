"""Sizes chosen by what calls cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.backends.costs import Costs

tables = st.dictionaries(st.integers(1, 300), st.floats(1e-6, 10.0), min_size=1, max_size=40).map(Costs)
LINEAR = Costs({size: 1e-3 + 2e-3 * size for size in (2, 3, 4, 6, 8, 12, 16, 24, 32)})
FLAT = Costs(dict.fromkeys((2, 4, 8, 16), 1e-3))


@given(tables, st.integers(1, 400))
def test_a_larger_call_never_costs_less(costs: Costs, rows: int) -> None:
    seconds = [costs.seconds(size) for size in costs.sizes]
    assert seconds == sorted(seconds)
    assert costs.seconds(rows) == costs.seconds(costs.holding(rows))
    assert costs.row_s <= min(costs.seconds(size) / size for size in costs.sizes)


@given(tables, st.integers(1, 400))
def test_the_size_chosen_is_one_of_the_table_and_no_larger_than_it_needs_to_be(costs: Costs, rows: int) -> None:
    size = costs.choose(rows)
    assert size in costs.sizes
    assert size <= costs.holding(rows)


@given(tables, st.floats(1e-7, 20.0))
def test_the_largest_size_within_a_price(costs: Costs, seconds: float) -> None:
    size = costs.within(seconds)
    assert costs.seconds(size) <= seconds or size == costs.sizes[0]
    assert all(costs.seconds(larger) > seconds for larger in costs.sizes if larger > size)


@given(tables, st.floats(1.01, 5.0))
def test_the_smallest_size_at_a_price(costs: Costs, times: float) -> None:
    size = costs.at_price(times)
    assert costs.seconds(size) / size <= times * costs.row_s * (1 + 1e-9)
    assert all(costs.seconds(less) / less > times * costs.row_s * (1 - 1e-9) for less in costs.sizes if less < size)


@given(tables, st.integers(1, 400))
def test_a_bound_keeps_the_rest_of_the_table(costs: Costs, most: int) -> None:
    kept = costs.up_to(most)
    assert all(size <= most for size in kept.sizes) or kept.sizes == costs.sizes[:1]
    assert all(kept.seconds(size) == costs.seconds(size) for size in kept.sizes)


def test_a_row_more_than_a_size_holds_is_left_over_where_rows_cost_and_not_where_they_do_not() -> None:
    assert LINEAR.choose(7) == 6
    assert LINEAR.choose(8) == 8
    assert FLAT.choose(9) == 16
    assert FLAT.choose(1) == 2


def test_noise_does_not_make_calls_small() -> None:
    lucky = Costs({size: (1.80e-3 if size == 4 else 1.85e-3) * size for size in (2, 4, 6, 16, 32)})
    assert lucky.choose(100) == lucky.choose(6) == 6


def test_calls_are_no_larger_than_a_better_price_is_worth() -> None:
    """Rows get hardly cheaper beyond some size, and those that come meanwhile wait for the end of a call."""
    assert LINEAR.choose(1000) == LINEAR.usual == 8  # 2.13 ms a row, where the best is 2.03
    dear = Costs({size: 5e-3 + 2e-4 * size for size in (1, 8, 32, 64, 128, 256)})  # as on a GPU
    assert dear.choose(1000) == dear.usual == 128
    assert Costs.guessed((1, 32)).choose(1000) == 32  # nothing was measured


@pytest.mark.parametrize("seconds", [{}, {0: 1.0}, {2: 0.0}])
def test_what_is_no_table_is_refused(seconds: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="expected positive sizes with positive seconds"):
        Costs(seconds)


def test_rows_that_take_longer_share_calls_of_fewer() -> None:
    """They take as much more memory: a call holds no more numbers than the largest that was measured."""
    costs = Costs({1: 1.0, 2: 1.5, 8: 4.0}).times(4.0)
    assert (costs.sizes, costs.seconds(2), costs.row_s) == ((1, 2), 6.0, 3.0)
    assert Costs({1: 1.0, 8: 4.0}).times(0.5).sizes == (1, 8)
    assert Costs({16: 1.0, 32: 4.0}).times(100.0).sizes == (16,)
