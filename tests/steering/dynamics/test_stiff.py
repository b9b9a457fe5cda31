"""Stiff fields: conditions of order, closed forms, Robertson and van der Pol, bits."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steering.dynamics import Event, Status, solve
from steering.dynamics.tableaus import ARK4, GAMMA
from steering.errors import PlanError


def matrix(rows: tuple[tuple[float, ...], ...], diagonal: float) -> np.ndarray[Any, Any]:
    out = np.zeros((6, 6))
    for i, row in enumerate(rows, 1):
        out[i, : len(row)] = row
        out[i, i] += diagonal
    return out


def test_the_additive_pair_is_of_its_order() -> None:
    """All conditions of order 4, coupled ones included; the error has those of order 3, the interpolant too."""
    c, b = np.array([0.0, *ARK4.c]), np.array(ARK4.b)
    both = matrix(ARK4.explicit, 0.0), matrix(ARK4.implicit, GAMMA)
    for a in both:
        np.testing.assert_allclose(a.sum(1), c, atol=1e-14)
    parts = np.array([0.3, 0.7, 1.0])
    for weights, order, at in (
        *zip(ARK4.weights(parts), (3, 3, 3), parts, strict=True),
        (b, 4, 1.0),
        (b - np.array(ARK4.error), 3, 1.0),
    ):
        for power in range(order):
            assert weights @ c**power == pytest.approx(at ** (power + 1) / (power + 1), abs=1e-13)
        for a in both:
            assert weights @ a @ c == pytest.approx(at**3 / 6, abs=1e-13)
            if order == 4:
                assert (weights * c) @ a @ c == pytest.approx(1 / 8, abs=1e-13)
                assert weights @ a @ c**2 == pytest.approx(1 / 12, abs=1e-13)
                for other in both:
                    assert weights @ a @ other @ c == pytest.approx(1 / 24, abs=1e-13)


def relaxing(y: Tensor, t: Tensor) -> Tensor:
    """Prothero & Robinson 1974: y = cos t whatever the rate, from y(0) = 1."""
    t = t.reshape(-1, 1)
    return -1e6 * (y - torch.cos(t)) - torch.sin(t)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
def test_steps_follow_the_solution(tolerance: float) -> None:
    """A million times faster than the solution; an explicit method needs 3 million rows."""
    times = torch.linspace(0, 10, 41, dtype=torch.float64)
    solution = solve(relaxing, torch.ones(1, 1), times, solver="esdirk4", rtol=tolerance, atol=tolerance)
    assert solution.status.tolist() == [Status.OK]
    assert float((solution.y[0, :, 0] - torch.cos(times)).abs().max()) < 20 * tolerance
    assert int(solution.evaluations) < 2500
    off = solve(relaxing, torch.full((1, 1), 2.0), times, solver="esdirk4", rtol=tolerance, atol=tolerance)
    assert float((off.y[0, 1:, 0] - torch.cos(times[1:])).abs().max()) < 20 * tolerance


def robertson(y: Tensor, t: Tensor) -> Tensor:
    slow, back, fast = 0.04 * y[:, 0], 1e4 * y[:, 1] * y[:, 2], 3e7 * y[:, 1] * y[:, 1]
    return torch.stack([back - slow, slow - back - fast, fast], 1)


def van_der_pol(y: Tensor, t: Tensor) -> Tensor:
    return torch.stack([y[:, 1], 1000 * (1 - y[:, 0] * y[:, 0]) * y[:, 1] - y[:, 0]], 1)


ROBERTSON = torch.tensor([0.98517213864, 3.3863953790e-05, 0.014794022184], dtype=torch.float64)
"""At t = 0.4, by scipy's Radau at rtol 1e-12."""


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-7), (torch.float32, 1e-5)])
def test_robertson(dtype: torch.dtype, rtol: float) -> None:
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    times = [0.0, 0.4, 40.0, 4e6, 4e9]
    solution = solve(robertson, y0, times, solver="esdirk4", rtol=rtol, atol=rtol * 1e-5, dtype=dtype)
    assert solution.status.tolist() == [Status.OK]
    assert torch.allclose(solution.y[0, 1], ROBERTSON, rtol=300 * rtol, atol=0)
    assert torch.allclose(solution.y.sum(2), torch.ones(1, 5, dtype=torch.float64), atol=1e-4 if rtol > 1e-6 else 1e-8)
    assert int(solution.evaluations) < 10_000


def test_van_der_pol() -> None:
    """Beside scipy's Radau at rtol 1e-11; by an explicit pair it would take a million steps."""
    exact = [1.59676895, -1.35474592]
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    solution = solve(van_der_pol, y0, [0.0, 500.0, 1500.0], solver="esdirk4", rtol=1e-6, atol=1e-9)
    assert solution.status.tolist() == [Status.OK]
    np.testing.assert_allclose(solution.y[0, 1:, 0].numpy(), exact, rtol=2e-3)  # the last is about to jump
    assert float(solution.y[0, 1, 0]) == pytest.approx(exact[0], rel=3e-5)
    explicit = solve(van_der_pol, y0, [0.0, 500.0], max_steps=300)
    assert explicit.status.tolist() == [Status.MAX_STEPS]


def test_events_and_failures() -> None:
    y0 = torch.tensor([[1.0], [2.0], [float("nan")]], dtype=torch.float64)
    solution = solve(relaxing, y0, [0.0, 3.0], solver="esdirk4", events=[Event(0)], rtol=1e-8, atol=1e-10)
    assert solution.status.tolist() == [Status.EVENT, Status.EVENT, Status.NOT_FINITE]
    assert float((solution.t_event[:2] - torch.pi / 2).abs().max()) < 1e-6
    breaking = solve(
        lambda y, t: torch.where(t.reshape(-1, 1) < 1, -y, y * torch.nan), y0[:1], [0.0, 2.0], solver="esdirk4"
    )  # fmt: skip
    assert breaking.status.tolist() == [Status.NOT_FINITE]
    assert float(breaking.t_last) == pytest.approx(1, abs=1e-3)
    huge = torch.tensor([[1e200, 0.0, 0.0]], dtype=torch.float64)
    assert solve(robertson, huge, [0.0, 1.0], solver="esdirk4", max_steps=50).status.tolist() != [Status.OK]
    with pytest.raises(PlanError, match="matrices"):
        solve(relaxing, torch.ones(1, 4096), [0.0, 1.0], solver="esdirk4")


@given(st.integers(1, 5), st.sampled_from([1, 2, 3, 7, 20]))
@settings(deadline=None, max_examples=8)
def test_alone_as_in_company(n: int, size: int) -> None:
    generator = torch.Generator().manual_seed(n * 100 + size)
    y0 = torch.randn(n, size, dtype=torch.float64, generator=generator)
    times = torch.rand(n, 3, dtype=torch.float64, generator=generator).cumsum(1)
    rtol = 10 ** -(1 + 6 * torch.rand(n, dtype=torch.float64, generator=generator))

    def field(y: Tensor, t: Tensor) -> Tensor:
        return 50 * torch.sin(y.roll(1, 1) - 2 * y) - t.reshape(-1, 1) * y

    together = solve(field, y0, times, solver="esdirk4", rtol=rtol, atol=rtol)
    for i in range(n):
        alone = solve(field, y0[i : i + 1], times[i : i + 1], solver="esdirk4", rtol=rtol[i], atol=rtol[i])
        assert torch.equal(alone.y[0], together.y[i])
        assert int(alone.evaluations) == int(together.evaluations[i])
