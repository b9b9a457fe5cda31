"""Brownian paths: their law, and that they are functions of time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steering.dynamics import brownian
from steering.dynamics.brownian import BrownianPaths
from steering.errors import PlanError

MANY = 2000


def paths(n: int, size: int = 1, start: float = 0.0, end: float = 1.0, seed: int = 7) -> BrownianPaths:
    ends = torch.full((n,), start, dtype=torch.float64), torch.full((n,), end, dtype=torch.float64)
    return BrownianPaths(seed, range(n), size, *ends)


def rows(times: Tensor, n: int) -> Tensor:
    return times.to(torch.float64).expand(n, -1)


@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (1, 0), (-1, 1), (-3, -2.5), (1.7e9, 1.7e9 + 1), (0, 1e-200), (2.0, 9.0)]
)
def test_increments_are_normal_and_independent(start: float, end: float) -> None:
    times = start + (end - start) * torch.tensor([0.0, 0.001, 0.1, 0.5, 0.500_03, 0.9, 1.0], dtype=torch.float64)
    steps = paths(MANY, 2, start, end).increments(torch.arange(MANY), rows(times, MANY))
    unit = steps.flatten(1) / times.diff().abs().sqrt().repeat_interleave(2)
    error = 5 / MANY**0.5
    assert float(unit.mean(dim=0).abs().max()) < error
    assert torch.allclose(unit.T @ unit / MANY, torch.eye(12, dtype=torch.float64), atol=2 * error)
    assert float((unit**4).mean()) == pytest.approx(3, abs=0.25)


def test_the_law_beyond_one_hundred_thousand_steps() -> None:
    times = torch.linspace(0, 1, 2**17 + 1, dtype=torch.float64)[: 2**12]
    steps = paths(4).increments(torch.arange(4), rows(times, 4))[..., 0] * 2**8.5
    assert float(steps.var()) == pytest.approx(1, abs=0.05)
    assert float((steps[:, 1:] * steps[:, :-1]).mean()) == pytest.approx(0, abs=0.04)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(-3, 5), min_size=1, max_size=12),
    st.lists(st.floats(-3, 5), max_size=12),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_a_path_is_a_function_of_time(some: list[float], others: list[float], size: int, row: int) -> None:
    company = paths(6, size, -3, 5)
    alone = BrownianPaths(7, [row], size, torch.tensor([5.0]), torch.tensor([-3.0]))
    together = sorted(some + others)
    values = company.at(torch.arange(6), rows(torch.tensor(together, dtype=torch.float64), 6))
    for time in some:
        mine = alone.at(torch.tensor([0]), torch.tensor([[time]], dtype=torch.float64))
        assert torch.equal(mine[0, 0], values[row, together.index(time)])


def test_a_longer_span_follows_the_same_path() -> None:
    times = torch.tensor([0.25, 0.5, 0.75, 1.0])
    short = paths(8, 3, 0, 1).increments(torch.arange(8), rows(times, 8))
    long = paths(8, 3, 0, 1000).increments(torch.arange(8), rows(times, 8))
    assert torch.allclose(short, long, atol=1e-12)


def test_neighbours_and_seeds_have_paths_of_their_own() -> None:
    one, two = paths(2, 1), paths(2, 1, seed=8)
    times = rows(torch.linspace(0, 1, 2000), 2)
    drawn = torch.cat([each.increments(torch.arange(2), times)[..., 0] for each in (one, two)])
    assert torch.allclose(torch.corrcoef(drawn), torch.eye(4, dtype=torch.float64), atol=0.12)


def test_times_too_far_away() -> None:
    with pytest.raises(PlanError, match="at most 2\\^1000"):
        paths(1, 1, 0, 1e305)


def test_many_numbers_are_made_in_parts_that_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    times = torch.linspace(-0.5, 1, 7, dtype=torch.float64).expand(3, -1)
    whole = paths(3, 21, -1, 1).at(torch.arange(3), times)
    monkeypatch.setattr(brownian, "_CHUNK", 19 * 8)
    monkeypatch.setattr(brownian, "_KEPT", 0)
    assert torch.equal(paths(3, 21, -1, 1).at(torch.arange(3), times), whole)
