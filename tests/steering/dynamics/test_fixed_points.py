"""Fixed points: linear maps in closed form, rates, what a residual says, bits, errors."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steering.dynamics import SOLVERS, Status, solve
from steering.errors import PlanError

METHODS = ["anderson", "nesterov", "homotopy"]
SIZE = 12


def matrix(radius: float) -> Tensor:
    """A random matrix of this spectral radius [12, 12]."""
    drawn = torch.randn(SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return drawn / torch.linalg.eigvals(drawn).abs().max() * radius


def symmetric(condition: float) -> Tensor:
    """I - A / max eigenvalue, a gradient step of a quadratic whose Hessian A has this condition number."""
    q, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    return q @ torch.diag(1 - torch.logspace(-math.log10(condition), 0, SIZE, dtype=torch.float64)) @ q.T


def affine(a: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """f(z) = A z + b, with rows that do not depend on the batch, and its fixed point."""
    b = torch.linspace(-1, 1, SIZE, dtype=torch.float64)

    def field(z: Tensor, t: Tensor) -> Tensor:
        total = b.to(z.dtype).expand_as(z)
        for k in range(SIZE):
            total = total + z[:, k : k + 1] * a[:, k].to(z.dtype)
        return total

    return field, torch.linalg.solve(torch.eye(SIZE, dtype=torch.float64) - a, b)


@pytest.mark.parametrize("solver", METHODS)
@pytest.mark.parametrize("radius", [0.5, 0.9])
def test_linear_maps(solver: str, radius: float) -> None:
    field, exact = affine(matrix(radius) if solver != "nesterov" else symmetric(1 / (1 - radius)))
    solution = solve(field, torch.zeros(1, SIZE), [0.0], solver=solver, kind="fixed_point", rtol=1e-8, atol=1e-8)
    assert solution.status.tolist() == [Status.OK]
    z = solution.y[0, 0]
    assert float((z - exact).abs().max()) < 1e-6
    residual = (field(z[None], z[:1])[0] - z).square().mean().sqrt()
    assert solution.residual is not None
    assert float(solution.residual[0]) == pytest.approx(float(residual), rel=1e-6)


LINEAR: list[tuple[str, dict[str, Any]]] = [("anderson", {"memory": 1}), ("anderson", {}), ("nesterov", {})]


def test_acceleration_takes_fewer_rows() -> None:
    field, _ = affine(symmetric(60))
    rows = [
        int(
            solve(
                field, torch.zeros(1, SIZE), [0.0], solver=solver, kind="fixed_point", rtol=0, atol=1e-8, **options
            ).evaluations[0]
        )
        for solver, options in LINEAR
    ]
    plain, anderson, nesterov = rows
    assert plain > 600
    assert anderson < plain / 5
    assert nesterov < plain / 5


def test_nesterovs_rate_on_a_quadratic() -> None:
    """g(z_k) - min g falls as 1 / k^2 or faster, below 2 |z_0 - z*|^2 / (s (k + 1)^2), Nesterov's bound."""
    a = symmetric(1e6)
    field, exact = affine(a)
    hessian = torch.eye(SIZE, dtype=torch.float64) - a
    for k in (10, 40, 160):
        z = solve(
            field, torch.zeros(1, SIZE), [0.0], solver="nesterov", kind="fixed_point", rtol=0, atol=1e-14, restart=0,
            max_steps=k,
        ).y[0, 0]  # fmt: skip
        gap = 0.5 * float((z - exact) @ hessian @ (z - exact))
        assert gap < 2 * float(exact.square().sum()) / (k + 1) ** 2


def test_the_homotopy_converges_where_the_iteration_does_not() -> None:
    def field(z: Tensor, t: Tensor) -> Tensor:
        return -3 * z + 8

    flow = solve(field, torch.zeros(1, 2), [0.0], solver="homotopy", kind="fixed_point", rtol=1e-7, atol=1e-7)
    assert torch.allclose(flow.y[0, 0], torch.full((2,), 2.0, dtype=torch.float64), atol=1e-6)
    plain = solve(field, torch.zeros(1, 2), [0.0], solver="anderson", kind="fixed_point", memory=1, max_steps=2000)
    assert plain.status.tolist() == [Status.NOT_FINITE]
    assert plain.y.isnan().all()


def test_a_residual_is_not_an_error() -> None:
    """Near a spectral radius of 1 the error is larger than the residual by 1 / (1 - radius)."""

    def field(z: Tensor, t: Tensor) -> Tensor:
        return 0.999 * z + 0.001

    solution = solve(
        field, torch.zeros(1, 1), [0.0], solver="anderson", kind="fixed_point", rtol=0, atol=1e-4, memory=1
    )  # fmt: skip
    assert solution.residual is not None
    assert float(solution.residual[0]) <= 1e-4
    assert float((solution.y - 1).abs().max()) == pytest.approx(float(solution.residual[0]) / 0.001, rel=0.01)


@pytest.mark.parametrize("solver", METHODS)
def test_times_are_a_parameter_and_each_begins_at_the_one_before(solver: str) -> None:
    """z = cos(z) / 2 + t, along t."""
    times = torch.linspace(0, 1, 4, dtype=torch.float64)

    def field(z: Tensor, t: Tensor) -> Tensor:
        return torch.cos(z) / 2 + t[:, None]

    words: dict[str, Any] = {"solver": solver, "kind": "fixed_point", "rtol": 1e-7, "atol": 1e-7}
    solution = solve(field, torch.zeros(2, 3), times, **words)
    y = solution.y
    assert torch.allclose(y, field(y.reshape(-1, 3), times.repeat(2)).reshape(y.shape), atol=1e-6)
    apart = sum(int(solve(field, torch.zeros(1, 3), times[k : k + 1], **words).evaluations[0]) for k in range(4))
    assert int(solution.evaluations[0]) < apart


@settings(max_examples=6, deadline=None)
@given(st.sampled_from(METHODS), st.integers(1, 6), st.integers(1, 33))
def test_a_row_alone_is_a_row_in_company(solver: str, n: int, size: int) -> None:
    def field(z: Tensor, t: Tensor) -> Tensor:
        return 0.3 * torch.cos(z + z.roll(1, 1)) + t[:, None]

    y0 = torch.linspace(-1, 2, n * size, dtype=torch.float64).reshape(n, size)
    times = torch.linspace(0, 1, n, dtype=torch.float64)[:, None] + torch.tensor([0.0, 0.5])
    rtol = torch.logspace(-8, -3, n, dtype=torch.float64)
    together = solve(field, y0, times, solver=solver, kind="fixed_point", rtol=rtol, max_steps=200)
    for i in range(n):
        alone = solve(field, y0[i : i + 1], times[i : i + 1], solver=solver, kind="fixed_point", rtol=rtol[i : i + 1],
            max_steps=200,
        )  # fmt: skip
        assert torch.equal(alone.y[0].nan_to_num(9.0), together.y[i].nan_to_num(9.0))
        assert int(alone.evaluations[0]) == int(together.evaluations[i])
        assert alone.residual is not None
        assert together.residual is not None
        assert torch.equal(alone.residual[0], together.residual[i])


@pytest.mark.parametrize("solver", METHODS)
def test_rows_that_fail_leave_the_others_alone(solver: str) -> None:
    def field(z: Tensor, t: Tensor) -> Tensor:
        return torch.where(z > 1e3, torch.nan, torch.where(z > 100, z + 1, torch.where(z > 10, z * 10, z / 2)))

    y0 = torch.tensor([[1.0], [math.nan], [20.0], [200.0]], dtype=torch.float64)
    solution = solve(field, y0, [0.0], solver=solver, kind="fixed_point", max_steps=30, rtol=1e-8, atol=1e-8)
    alone = solve(field, y0[:1], [0.0], solver=solver, kind="fixed_point", max_steps=30, rtol=1e-8, atol=1e-8)
    assert torch.equal(alone.y[0], solution.y[0])
    assert solution.status[0] == alone.status[0]
    assert solution.status[1] == Status.NOT_FINITE
    assert set(solution.status[2:].tolist()) <= {Status.NOT_FINITE, Status.NOT_CONVERGED, Status.STEP_TOO_SMALL}
    assert solution.y[1].isnan().all()


def test_what_has_not_converged_is_returned_with_its_residual() -> None:
    field, _ = affine(symmetric(1000))
    solution = solve(field, torch.zeros(1, SIZE), [0.0, 1.0], solver="anderson", kind="fixed_point", max_steps=4)
    assert solution.status.tolist() == [Status.NOT_CONVERGED]
    assert solution.evaluations.tolist() == [4]
    z = solution.y[0, 0]
    assert solution.residual is not None
    assert float(solution.residual[0]) == pytest.approx(float((field(z[None], z[:1])[0] - z).square().mean().sqrt()))
    assert solution.y[0, 1].isnan().all()


def test_a_fixed_point_from_the_start_takes_one_row() -> None:
    for solver in METHODS:
        y0 = torch.ones(2, 3)
        solution = solve(lambda z, t: z, y0, [0.0], solver=solver, kind="fixed_point", rtol=0, atol=1e-300)
        assert solution.evaluations.tolist() == [1, 1]
        assert torch.equal(solution.y[:, 0], y0.double())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"solver": "anderson", "memory": 0}, "memory: expected a whole number in 1..20, got 0"),
        ({"solver": "anderson", "mixing": 2}, "mixing: expected a number in 0.001..1, got 2"),
        ({"solver": "tsit5"}, "expected a problem of kind ode or cde, got fixed_point"),
        ({"solver": "anderson", "rtol": 0.0, "atol": 0.0}, "expected one of them above 0"),
    ],
)
def test_what_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        solve(lambda z, t: z, torch.ones(1, 2), [0.0], kind="fixed_point", **words)
    assert set(METHODS) <= set(SOLVERS)
