"""Maps: what they are given at each step, what is conserved, bits, errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steering.dynamics import Status, solve
from steering.dynamics.control import control
from steering.errors import PlanError

NAN = math.nan


def doubles(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def decay(y: Tensor, t: Tensor, dt: Tensor) -> Tensor:
    """The flow map of dy/dt = -y: exact for steps of any length."""
    return y * torch.exp(-dt)


def test_a_flow_map_on_irregular_times() -> None:
    times = doubles([0.0, 0.1, 0.1, 0.7, 2.0], [0.0, 1.0, 2.0, 2.5, 3.0])
    solution = solve(decay, doubles([1.0, 2.0], [3.0, -1.0]), times, solver="map", kind="map")
    exact = doubles([1.0, 2.0], [3.0, -1.0])[:, None] * torch.exp(-times)[..., None]
    assert torch.allclose(solution.y, exact, rtol=1e-12)
    assert solution.accepted.tolist() == solution.evaluations.tolist() == [3, 4]
    back = solve(decay, solution.y[:, -1], times.flip(1), solver="map", kind="map").y
    assert torch.allclose(back.flip(1), exact, rtol=1e-12)


def test_steps_of_dt_between_the_times_asked_for() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def field(y: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        seen.append((t, dt))
        return 2 * y

    solution = solve(field, doubles([1.0], [1.0]), [0.0, 0.3, 0.4], solver="map", kind="map", dt=doubles(0.1, 0.05))
    assert solution.y[:, :, 0].tolist() == [[1, 8, 16], [1, 64, 256]]
    assert torch.allclose(torch.stack([t[0] for t, _ in seen[:4]]), doubles(0.0, 0.1, 0.2, 0.3), atol=1e-15)
    assert torch.allclose(seen[0][1], doubles([0.1], [0.05]), atol=1e-15)


def test_a_recurrent_cell_reads_what_was_observed_at_each_steps_end() -> None:
    """h_next = h / 2 + x: a running sum of observations, missing ones as they were last seen."""
    times = doubles([0.5, 1.5, 2.0])
    values = doubles([[1.0], [NAN], [4.0]])

    def cell(y: Tensor, t: Tensor, dt: Tensor, dx: Tensor) -> Tensor:
        return y / 2 + dx

    y = solve(
        cell, doubles([0.0]), [0.0, 0.5, 1.5, 2.0], solver="map", kind="map", control=control(times, values)
    ).y  # fmt: skip
    assert y[0, :, 0].tolist() == [0.0, 1.0, 1.5, 4.75]
    with pytest.raises(PlanError, match="control: expected observations for all of t_eval"):
        solve(cell, doubles([0.0]), [0.0, 0.5, 3.0], solver="map", kind="map", control=control(times, values))


def test_a_state_with_a_buffer_of_fixed_size() -> None:
    """An autoregressive model whose state is its last three numbers: Fibonacci's, whole in float64."""

    def model(y: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        return torch.cat([y[:, 1:], y[:, 1:2] + y[:, 2:]], 1)

    y = solve(model, doubles([0.0, 0.0, 1.0]), torch.arange(71.0), solver="map", kind="map").y
    assert float(y[0, 70, 2]) == 308061521170129


@pytest.mark.parametrize("multiplicative", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mass_is_kept_over_a_thousand_steps(multiplicative: int, dtype: torch.dtype) -> None:
    area = torch.linspace(0.5, 2, 12, dtype=torch.float64)[:, None]
    y0 = torch.rand(3, 12, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1

    def leaking(y: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        assert y.dtype == dtype
        return 0.5 * (y + y.roll(1, -1)) * 1.003

    times = torch.arange(0, 1001, 100, dtype=torch.float64)
    words = {"solver": "map", "kind": "map", "dt": 1.0, "dtype": dtype, "multiplicative": multiplicative}
    y = solve(leaking, y0, times, conserve=area, **words).y  # type: ignore[arg-type]
    mass = (y * area).sum(dim=(2, 3))
    assert float((mass / mass[:, :1] - 1).abs().max()) < 4e-15
    free = solve(leaking, y0, times, **words).y  # type: ignore[arg-type]
    assert float((free[:, -1] * area).sum()) > 10 * float((y0 * area).sum())


def test_what_has_no_weight_is_left_alone_and_factors_keep_zeros() -> None:
    weights, y0 = doubles(1.0, 1.0, 0.0, 1.0), doubles([1.0, 0.0, 5.0, 3.0])

    def doubling(y: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        return 2 * y

    for multiplicative, exact in ((1, [1.0, 0.0, 10.0, 3.0]), (0, [2 - 4 / 3, -4 / 3, 10.0, 6 - 4 / 3])):
        y = solve(
            doubling, y0, [0.0, 1.0], solver="map", kind="map", conserve=weights, multiplicative=multiplicative
        ).y  # fmt: skip
        assert torch.allclose(y[0, 1], doubles(*exact), rtol=1e-14)
    lost = solve(
        lambda y, t, dt: 0 * y, y0, [0.0, 1.0], solver="map", kind="map", conserve=weights, multiplicative=1
    )  # fmt: skip
    assert lost.status.tolist() == [Status.NOT_FINITE]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 1))
def test_a_row_alone_is_a_row_in_company(n: int, size: int, multiplicative: int) -> None:
    def field(y: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        return torch.sin(y + t[:, None]) + y * torch.exp(dt)

    y0 = torch.linspace(0.1, 2, n * size, dtype=torch.float64).reshape(n, size)
    times = torch.linspace(0, 1, 4, dtype=torch.float64) * torch.linspace(1, 3, n, dtype=torch.float64)[:, None]
    words = {"solver": "map", "kind": "map", "conserve": torch.arange(1.0, size + 1), "multiplicative": multiplicative}
    together = solve(field, y0, times, **words)  # type: ignore[arg-type]
    for i in range(n):
        alone = solve(field, y0[i : i + 1], times[i : i + 1], **words)  # type: ignore[arg-type]
        assert torch.equal(alone.y[0], together.y[i])


def test_rows_that_fail_leave_the_others_alone() -> None:
    y0 = doubles([1.0], [NAN], [1e200], [1.0])
    times = doubles([0.0, 3.0], [0.0, 3.0], [0.0, 3.0], [0.0, 9.0])
    solution = solve(lambda y, t, dt: y * y, y0, times, solver="map", kind="map", dt=1.0, max_steps=5)
    assert solution.status.tolist() == [Status.OK, Status.NOT_FINITE, Status.NOT_FINITE, Status.MAX_STEPS]
    assert solution.y[:, 1, 0].isnan().tolist() == [False, True, True, True]
    far = solve(lambda y, t, dt: y, y0[:1], [0.0, 1e300], solver="map", kind="map", dt=1.0, max_steps=5)
    assert far.status.tolist() == [Status.MAX_STEPS]


@pytest.mark.parametrize(
    ("words", "times", "message"),
    [
        ({"dt": 0.1}, [0.0, 0.25], r"expected times whole numbers of dt 0.1 apart, got 0.25 in row 0"),
        ({"dt": 0.1}, [1.0, 0.0], "expected rising times for a map"),
        ({"conserve": torch.ones(3)}, [0.0, 1.0], r"conserve: expected weights that broadcast to \[2\], got \[3\]"),
        ({"conserve": torch.zeros(2)}, [0.0, 1.0], "conserve: expected finite weights"),
        ({"conserve": torch.tensor([1.0, NAN])}, [0.0, 1.0], "conserve: expected finite weights"),
        ({"multiplicative": 0.5}, [0.0, 1.0], "multiplicative: expected a whole number in 0..1"),
    ],
)
def test_what_is_refused(words: dict[str, object], times: list[float], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        solve(lambda y, t, dt: y, doubles([1.0, 2.0]), times, solver="map", kind="map", **words)  # type: ignore[arg-type]
