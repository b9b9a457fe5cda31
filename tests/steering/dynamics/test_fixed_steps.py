"""Fixed steps: closed forms, orders by slope, bits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steering.dynamics import SOLVERS, Status, solve
from steering.errors import NetworkError, PlanError


def swing(y: Tensor, t: Tensor) -> Tensor:
    """y(t) = y(0) turned by sin t, shrunk by exp(-t / 10)."""
    rate = torch.cos(t)[:, None]
    return torch.stack([-y[:, 1], y[:, 0]], 1) * rate - 0.1 * y


def swung(y: Tensor, t: float) -> Tensor:
    angle, size = math.sin(t), math.exp(-t / 10)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    return size * (y @ turn.T)


Y0 = torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_orders(name: str, order: int) -> None:
    assert SOLVERS[name].order == order
    errors = [
        float((solve(swing, Y0, [0.0, 2.0], solver=name, dt=2 / steps).y[:, -1] - swung(Y0, 2.0)).abs().max())
        for steps in (40, 80)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_there_and_back() -> None:
    there = solve(swing, Y0, [0.0, 0.7, 2.0], solver="rk4", dt=0.01).y
    back = solve(swing, there[:, -1], [2.0, 0.7, 0.0], solver="rk4", dt=0.01).y
    assert torch.allclose(back.flip(1), there, atol=1e-9, rtol=0)


def test_rows_and_steps_are_counted() -> None:
    solution = solve(swing, Y0, torch.tensor([[0.0, 1.0, 1.0, 1.25], [0.0, 0.1, 0.2, 0.3]]), solver="rk4", dt=0.5)
    assert solution.accepted.tolist() == [3, 3]
    assert solution.evaluations.tolist() == [12, 12]
    assert torch.equal(solution.y[0, 1], solution.y[0, 2])


def test_a_row_that_fails_leaves_the_others_alone() -> None:
    y0 = torch.tensor([[1.0], [math.nan], [1e200], [2.0]], dtype=torch.float64)
    times = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 3.0]])
    solution = solve(lambda y, t: y * y * y, y0 * 0.1, times, solver="euler", dt=0.1, max_steps=25)
    assert solution.status.tolist() == [Status.OK, Status.NOT_FINITE, Status.NOT_FINITE, Status.MAX_STEPS]
    assert solution.y[:, -1].isnan().flatten().tolist() == [False, True, True, True]
    assert float(solution.t_last[3]) == pytest.approx(2.5)


@given(st.integers(1, 5), st.sampled_from(["euler", "heun", "rk4"]), st.integers(1, 5))
@settings(deadline=None, max_examples=25)
def test_alone_as_in_company(n: int, name: str, size: int) -> None:
    generator = torch.Generator().manual_seed(n)
    y0 = torch.randn(n, size, dtype=torch.float64, generator=generator)
    times = torch.rand(n, 4, dtype=torch.float64, generator=generator).cumsum(1)
    dt = torch.rand(n, dtype=torch.float64, generator=generator) * 0.3 + 0.05

    def field(y: Tensor, t: Tensor) -> Tensor:
        return torch.sin(3 * y) - t.reshape(-1, 1) * y

    together = solve(field, y0, times, solver=name, dt=dt).y
    for i in range(n):
        assert torch.equal(solve(field, y0[i : i + 1], times[i : i + 1], solver=name, dt=dt[i]).y[0], together[i])


def test_what_is_refused() -> None:
    for arguments, text in (
        ({"t_eval": [0.0, 1.0, 0.5]}, "only rise or only fall"),
        ({"t_eval": [0.0, math.nan]}, "finite"),
        ({"t_eval": torch.zeros(3, 2)}, "shape"),
        ({"dt": -1.0}, "dt"),
        ({"solver": "eulr"}, "did you mean"),
        ({"order": 2.0}, "option"),
        ({"kind": "sde"}, "kind"),
        ({"condition": {"a": torch.zeros(3)}}, "condition"),
    ):
        with pytest.raises(PlanError, match=text):
            solve(swing, Y0, **{"t_eval": [0.0, 1.0], "solver": "rk4", **arguments})  # type: ignore[arg-type]
    with pytest.raises(NetworkError, match="drift"):
        solve(lambda y, t: y[:, :1], Y0, [0.0, 1.0], solver="rk4")
