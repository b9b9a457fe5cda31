"""Fits with known answers: parameters that made the data, linear least squares, bounds, what cannot be told."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from steering.dynamics import fit, solve
from steering.dynamics.fit import least_squares
from steering.errors import PlanError
from steering.sampling.rows import answered

TIMES = torch.linspace(0, 6, 13, dtype=torch.float64)
Y0 = torch.tensor([[1.0, 0.5], [0.6, 1.2], [2.0, 2.0]], dtype=torch.float64)


def hunting(y: Tensor, t: Tensor, rates: Tensor, death: Tensor) -> Tensor:
    """Lotka & Volterra: rates [m, 3], death [m, 1]."""
    hare, fox = y[:, 0], y[:, 1]
    return torch.stack([
        hare * (rates[:, 0] - rates[:, 1] * fox), fox * (rates[:, 2] * hare - death[:, 0])
    ], 1)  # fmt: skip


TRUE = {"rates": torch.tensor([1.1, 0.7, 0.4], dtype=torch.float64), "death": torch.tensor([0.8], dtype=torch.float64)}


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_the_parameters_that_made_the_data(dtype: torch.dtype, within: float) -> None:
    condition = {name: value.expand(3, -1) for name, value in TRUE.items()}
    seen = solve(hunting, Y0, TIMES, rtol=1e-10, atol=1e-10, condition=condition).y
    seen[0, 3:6] = math.nan
    start = {"rates": torch.tensor([1.0, 0.8, 0.5]), "death": torch.tensor([0.7])}
    fitted, found = fit(hunting, Y0, TIMES, seen, start, dtype=dtype)
    assert fitted.converged
    assert fitted.iterations < 25
    for name, value in TRUE.items():
        torch.testing.assert_close(found[name], value, rtol=within, atol=0)
    assert fitted.evaluations % 5 == 0
    assert list(fitted.cost) == sorted(fitted.cost, reverse=True)


def test_a_linear_problem_is_ordinary_least_squares() -> None:
    """y = a t + b t^2 / 2: estimate and covariance in closed form."""
    noise = torch.randn(1, 13, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    design = torch.stack([TIMES, TIMES**2 / 2], 1)
    seen = (design @ torch.tensor([2.0, -0.5], dtype=torch.float64))[None, :, None] + 0.3 * noise
    zero = torch.zeros(1, 1, dtype=torch.float64)
    fitted, _ = fit(
        lambda y, t, slope: slope[:, :1] + slope[:, 1:] * t[:, None], zero, TIMES, seen, {"slope": torch.ones(2)}
    )  # fmt: skip
    exact, residual = torch.linalg.lstsq(design, seen[0], driver="gelsd")[:2]
    torch.testing.assert_close(fitted.parameters, exact[:, 0], rtol=1e-6, atol=1e-8)
    spread = torch.linalg.inv(design.T @ design) * float(residual) / 11
    torch.testing.assert_close(fitted.covariance, spread, rtol=1e-4, atol=1e-12)


def test_bounds_and_weights() -> None:
    seen = torch.exp(-0.7 * TIMES)[None, :, None]
    one = torch.ones(1, 1, dtype=torch.float64)

    def decay(y: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        return -rate[:, None] * y

    start = {"rate": torch.tensor(0.3)}
    _, free = fit(decay, one, TIMES, seen, start)
    assert float(free["rate"]) == pytest.approx(0.7, abs=1e-6)
    bounded, held = fit(decay, one, TIMES, seen, start, upper={"rate": torch.tensor(0.5)})
    assert float(held["rate"]) == 0.5
    assert bounded.converged
    both = torch.cat([seen, torch.exp(-0.2 * TIMES)[None, :, None]])
    sigma = torch.tensor([1e-3, 1e3], dtype=torch.float64)[:, None, None]
    _, first = fit(decay, one.expand(2, 1), TIMES, both, start, sigma=sigma)
    assert float(first["rate"]) == pytest.approx(0.7, abs=1e-5)


def test_a_step_into_nowhere_is_taken_back() -> None:
    """Rosenbrock's valley, with a cliff: residuals are NaN for p_0 > 1.5."""

    def valley(trial: np.ndarray) -> np.ndarray:
        out = np.stack([10 * (trial[:, 1] - trial[:, 0] ** 2), 1 - trial[:, 0]], 1)
        return np.where(trial[:, :1] > 1.5, np.nan, out)

    fitted = answered(least_squares([-1.2, 1.0], max_iterations=100), valley)
    assert fitted.converged
    torch.testing.assert_close(fitted.parameters, torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_what_the_data_do_not_tell() -> None:
    """Only the product of two parameters matters."""
    one = torch.ones(1, 1, dtype=torch.float64)
    fitted, found = fit(
        lambda y, t, a, b: -(a * b)[:, None] * y, one, TIMES, torch.exp(-0.6 * TIMES)[None, :, None],
        {"a": torch.tensor(1.0), "b": torch.tensor(1.0)},
    )  # fmt: skip
    assert float(found["a"] * found["b"]) == pytest.approx(0.6, abs=1e-5)
    assert bool(fitted.deviations.isnan().all()) or float(fitted.deviations.max()) > 1e-3


def test_what_is_refused() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    seen = torch.ones(1, 13, 1, dtype=torch.float64)

    def decay(y: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        return -torch.sqrt(rate)[:, None] * y

    start = {"rate": torch.tensor(0.3)}
    for arguments, text in (
        ({"observed": seen[:, :3]}, "observed"),
        ({"observed": seen * math.nan}, "observation"),
        ({"sigma": 0.0}, "sigma"),
        ({"start": {}}, "parameter"),
        ({"start": {"rate": torch.tensor(math.nan)}}, "finite"),
        ({"lower": {"rate": torch.tensor(1.0)}}, "bounds"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"start": {"rate": torch.tensor(-1.0)}}, "first parameters"),
    ):
        with pytest.raises(PlanError, match=text):
            fit(decay, one, TIMES, **{"observed": seen, "start": start, **arguments})  # type: ignore[arg-type]


def test_columns_differ_by_more_than_the_solver_s_tolerance():
    """Steps that are chosen leave a trajectory uncertain by rtol: a parameter moved by less would tell nothing, and the
    fit would stop where it began and say that it had converged."""

    def column(y: Tensor, t: Tensor, attach: Tensor, detach: Tensor) -> Tensor:
        free, held = y[:, :8], y[:, 8:]
        before = torch.cat([torch.ones_like(free[:, :1]), free[:, :-1]], 1)
        caught = attach[:, None] * free - detach[:, None] * held
        return torch.cat([16 * (before - free) - caught, caught], 1)

    number = lambda value: torch.tensor(value, dtype=torch.float64)  # noqa: E731
    times, start = torch.linspace(0, 3, 13, dtype=torch.float64), torch.zeros(1, 16, dtype=torch.float64)
    truth = {"attach": number(4.0), "detach": number(2.0)}
    seen = solve(column, start, times, rtol=1e-9, atol=1e-11, condition={k: v[None] for k, v in truth.items()}).y
    seen[:, 0], seen[..., :7], seen[..., 8:] = torch.nan, torch.nan, torch.nan  # only what leaves the column
    fitted, found = fit(column, start, times, seen, {k: number(3.0) for k in truth}, rtol=1e-6, atol=1e-8)
    assert fitted.converged
    for name, value in truth.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=0)
