"""Adaptive steps: conditions of order, closed forms, errors by tolerance, bits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steering.dynamics import Status, solve
from steering.dynamics.tableaus import BOSH3, DOPRI5, TSIT5, Pair
from tests.steering.dynamics.test_fixed_steps import Y0, swing, swung

PAIRS = {"tsit5": TSIT5, "dopri5": DOPRI5, "bosh3": BOSH3}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_a_pair_is_consistent(pair: Pair) -> None:
    """Rows of a sum to c, the last is b; b is of its order and the other estimate of one less, on quadratures; the
    interpolant has both states and both slopes."""
    for c, row in zip(pair.c, pair.a, strict=True):
        assert sum(row) == pytest.approx(c, abs=1e-14)
    nodes = np.array([0.0, *pair.c])
    assert pair.a[-1] == pair.b[:-1]
    assert pair.b[-1] == 0
    for power in range(pair.order):
        assert float(np.dot(pair.b, nodes**power)) == pytest.approx(1 / (power + 1), abs=1e-13)
    for power in range(pair.order - 1):
        assert float(np.dot(pair.error, nodes**power)) == pytest.approx(0, abs=1e-13)
    assert abs(float(np.dot(pair.error, nodes ** (pair.order - 1)))) > 1e-4
    width = 1e-6
    at = pair.weights(np.array([0.0, 1.0, width, 1 - width]))
    unit = np.eye(len(nodes))
    np.testing.assert_allclose(at[0], 0, atol=1e-15)
    np.testing.assert_allclose(at[1], pair.b, atol=1e-13)
    np.testing.assert_allclose((at[2] - at[0]) / width, unit[0], atol=1e-4)
    np.testing.assert_allclose((at[1] - at[3]) / width, unit[-1], atol=1e-4)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("times", [[0.0, 0.3, 1.0, 2.0], [2.0, 1.1, 0.4, 0.0]])
def test_errors_follow_the_tolerance(name: str, times: list[float]) -> None:
    y0 = swung(Y0, times[0])
    errors, rows = [], []
    for tolerance in (1e-4, 1e-7):
        solution = solve(swing, y0, times, solver=name, rtol=tolerance, atol=tolerance)
        exact = torch.stack([swung(Y0, t) for t in times], 1)
        errors.append(float((solution.y - exact).abs().max()))
        rows.append(int(solution.evaluations.max()))
        assert errors[-1] < 20 * tolerance
    assert errors[1] < errors[0] / 50
    assert rows[1] > 1.3 * rows[0]


@pytest.mark.parametrize("name", PAIRS)
def test_states_between_steps_are_as_good_as_at_them(name: str) -> None:
    times = torch.linspace(0, 3, 301, dtype=torch.float64)
    tolerance = 1e-6 if name == "bosh3" else 1e-8
    solution = solve(swing, Y0, times, solver=name, rtol=tolerance, atol=tolerance)
    errors = torch.stack([(solution.y[:, i] - swung(Y0, float(t))).abs().amax(1) for i, t in enumerate(times)])
    assert float(errors.max()) < 20 * tolerance
    assert int(solution.accepted.max()) < 301 / 2


def test_rows_do_not_depend_on_the_times_asked_for() -> None:
    few = solve(swing, Y0, [0.0, 3.0])
    many = solve(swing, Y0, torch.linspace(0, 3, 100))
    assert torch.equal(few.y[:, -1], many.y[:, -1])
    assert torch.equal(few.evaluations, many.evaluations)


def test_rows_that_fail_leave_the_others_alone() -> None:
    """y' = y^2 from y0 ends at t = 1 / y0."""
    y0 = torch.tensor([[0.1], [2.0], [math.nan], [1e200], [-1.0]], dtype=torch.float64)
    solution = solve(lambda y, t: y * y, y0, [0.0, 0.4, 1.0], rtol=1e-5, atol=1e-8)
    assert solution.status[0] == solution.status[4] == Status.OK
    assert solution.status[1] in (Status.STEP_TOO_SMALL, Status.NOT_FINITE)
    assert solution.status[2] == solution.status[3] == Status.NOT_FINITE
    assert float(solution.t_last[1]) == pytest.approx(0.5, abs=1e-4)
    assert float(solution.y[1, 1, 0]) == pytest.approx(1 / (1 / 2 - 0.4), rel=1e-3)
    assert bool(solution.y[1, 2].isnan())
    assert int(solution.evaluations.max()) < 9000


def test_too_many_steps() -> None:
    solution = solve(lambda y, t: -1e4 * (y - torch.cos(t)[:, None]), torch.zeros(1, 1), [0.0, 0.01, 9.0], max_steps=50)
    assert solution.status.tolist() == [Status.MAX_STEPS]
    assert int(solution.accepted + solution.rejected) == 50
    assert not bool(solution.y[0, 1].isnan())
    assert bool(solution.y[0, 2].isnan())
    assert 0.01 < float(solution.t_last) < 1


def test_a_field_that_breaks_on_the_way() -> None:
    solution = solve(lambda y, t: torch.where(t[:, None] < 0.5, y, y * math.nan), torch.ones(1, 1), [0.0, 0.4, 1.0])
    assert solution.status.tolist() == [Status.NOT_FINITE]
    assert float(solution.t_last) == pytest.approx(0.5, abs=1e-6)
    assert int(solution.evaluations) < 1000


def test_a_field_at_rest_and_times_that_stand_still() -> None:
    still = solve(lambda y, t: 0 * y, Y0, [0.0, 1e6])
    assert torch.equal(still.y[:, 1], Y0)
    assert int(still.evaluations.max()) < 60
    same = solve(swing, Y0, [1.0, 1.0, 1.0])
    assert torch.equal(same.y, Y0[:, None].expand(-1, 3, -1))
    assert solve(swing, Y0, [1.0]).y.shape == (2, 1, 2)


def test_a_field_that_ends_before_the_first_guess() -> None:
    """The slope at the end of the first guess is NaN: shorter steps go as far as the field does."""

    def field(y: Tensor, t: Tensor) -> Tensor:
        return torch.where(t[:, None] > 1e-4, torch.nan, torch.ones_like(y))

    solution = solve(field, torch.ones(1, 2), [0.0, 1.0])
    assert solution.status.tolist() == [Status.NOT_FINITE]
    assert float(solution.t_last) == pytest.approx(1e-4, rel=1e-6)
    assert int(solution.evaluations) < 1000


@pytest.mark.parametrize("name", ["tsit5", "dopri5", "bosh3", "esdirk4"])
def test_without_atol_a_zero_may_stay(name: str) -> None:
    y0 = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    solution = solve(lambda y, t: -y, y0, [0.0, 1.0], solver=name, rtol=1e-6, atol=0.0)
    assert solution.status.tolist() == [Status.OK, Status.OK]
    end = math.exp(-1)
    np.testing.assert_allclose(solution.y[:, -1], [[end, 0], [end, end]], rtol=1e-4)


@pytest.mark.parametrize("name", ["tsit5", "dopri5", "bosh3"])
def test_without_atol_a_number_may_leave_zero(name: str) -> None:
    solution = solve(lambda y, t: torch.ones_like(y), torch.zeros(1, 2), [0.0, 1.0], solver=name, rtol=1e-6, atol=0.0)
    assert solution.status.tolist() == [Status.OK]
    np.testing.assert_allclose(solution.y[0, -1], [1, 1], rtol=1e-6)


def test_a_span_of_the_smallest_numbers() -> None:
    solution = solve(lambda y, t: y, torch.ones(1, 1), [0.0, 1e-320])
    assert solution.status.tolist() == [Status.OK]
    assert float(solution.y[0, -1]) == 1


def test_a_tolerance_finer_than_the_field_is_raised() -> None:
    def rough(y: Tensor, t: Tensor) -> Tensor:
        return swing(y.to(torch.float32), t.to(torch.float32))

    solution = solve(rough, Y0, [0.0, 2.0], rtol=1e-9, atol=1e-6, dtype=torch.float32)
    assert solution.warnings == ("rtol 1e-09 is finer than a float32 field gives: 1e-06 was used",)
    assert torch.equal(solution.y, solve(rough, Y0, [0.0, 2.0], rtol=1e-6, atol=1e-6, dtype=torch.float32).y)
    assert not solve(swing, Y0, [0.0, 2.0], rtol=1e-9).warnings


@given(st.integers(1, 7), st.sampled_from(sorted(PAIRS)), st.sampled_from([1, 2, 3, 5, 17]), st.booleans())
@settings(deadline=None, max_examples=15)
def test_alone_as_in_company(n: int, name: str, size: int, falling: bool) -> None:
    """Every row's bits, whatever the tolerances, times and first steps of the others."""
    generator = torch.Generator().manual_seed(n * 100 + size)
    y0 = torch.randn(n, size, dtype=torch.float64, generator=generator)
    times = torch.rand(n, 4, dtype=torch.float64, generator=generator).cumsum(1)
    times = times.flip(1) if falling else times
    rtol = 10 ** -(1 + 7 * torch.rand(n, dtype=torch.float64, generator=generator))

    def field(y: Tensor, t: Tensor) -> Tensor:
        return torch.sin(3 * y) - t.reshape(-1, 1) * y

    together = solve(field, y0, times, solver=name, rtol=rtol, atol=rtol)
    for i in range(n):
        alone = solve(field, y0[i : i + 1], times[i : i + 1], solver=name, rtol=rtol[i], atol=rtol[i])
        assert torch.equal(alone.y[0], together.y[i])
        assert int(alone.evaluations) == int(together.evaluations[i])
