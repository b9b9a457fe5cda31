"""Fractional derivatives: the kernel, Mittag-Leffler's function, orders, bits."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from steering.dynamics import Status, solve
from steering.dynamics.fractional import exponentials
from steering.errors import PlanError

ALPHAS = [0.05, 0.3, 0.6, 0.9, 0.99]


def mittag_leffler(alpha: float, x: float) -> float:
    """E_alpha(-x), by its integral (Gorenflo & Mainardi 1997)."""

    def density(s: float) -> float:
        power = s**alpha
        return (
            math.exp(-(x ** (1 / alpha)) * s) * s ** (alpha - 1) * math.sin(alpha * math.pi)
            / (math.pi * (power * power + 2 * power * math.cos(alpha * math.pi) + 1))
        )  # fmt: skip

    return float(quad(density, 0, 1, limit=200)[0] + quad(density, 1, np.inf, limit=200)[0])


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_kernel(alpha: float) -> None:
    for tolerance in (1e-4, 1e-8):
        weights, rates = exponentials(alpha, 1e-4, 2.0, tolerance)
        t = np.geomspace(1e-4, 2.0, 60)
        kernel = t ** (alpha - 1) / math.gamma(alpha)
        found = (weights * np.exp(-rates * t[:, None])).sum(1)
        assert np.abs(found / kernel - 1).max() < 3 * tolerance
        assert len(weights) < 130


def decay(y: Tensor, t: Tensor) -> Tensor:
    return -y


@pytest.mark.parametrize("alpha", [0.3, 0.6, 0.9])
def test_relaxation(alpha: float) -> None:
    """D^alpha y = -y: y = E_alpha(-t^alpha), on times that crowd at the start, where y grows as t^alpha."""
    errors = []
    for steps in (50, 100):
        times = 2.0 * (torch.arange(steps + 1, dtype=torch.float64) / steps) ** (2 / alpha)
        found = solve(decay, torch.ones(1, 1), times, solver="fractional", alpha=alpha)
        errors.append(abs(float(found.y[0, -1, 0]) - mittag_leffler(alpha, 2.0**alpha)))
    assert errors[1] < 2e-3
    assert errors[1] < errors[0] / 2 ** min(1 + alpha, 1.25)


def test_a_polynomial_and_steps_between_the_times() -> None:
    """D^alpha t^2 = 2 t^(2 - alpha) / Gamma(3 - alpha), of order 2; equal steps of dt."""
    alpha = 0.5

    def field(y: Tensor, t: Tensor) -> Tensor:
        return (2 / math.gamma(3 - alpha) * t**1.5 - (y[:, 0] - t * t)).reshape(-1, 1)

    errors = []
    for dt in (0.02, 0.01):
        found = solve(field, torch.zeros(1, 1), [0.0, 0.5, 1.0], solver="fractional", dt=dt)
        assert found.accepted.tolist() == [round(1 / dt)]
        assert int(found.evaluations) == 2 * round(1 / dt) + 1
        errors.append(float((found.y[0, :, 0] - torch.tensor([0.0, 0.25, 1.0])).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


def test_nearly_an_ordinary_derivative() -> None:
    found = solve(decay, torch.ones(1, 1), [0.0, 1.0], solver="fractional", alpha=0.999, dt=0.01)
    assert float(found.y[0, -1, 0]) == pytest.approx(math.exp(-1), abs=2e-3)


def test_alone_as_in_company() -> None:
    """Rows with other times need other exponentials."""
    y0 = torch.tensor([[1.0, -2.0], [0.3, 0.1], [5.0, 1.0]], dtype=torch.float64)
    times = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1e-3, 9.0], [0.0, 0.5, 0.5]], dtype=torch.float64)

    def field(y: Tensor, t: Tensor) -> Tensor:
        return torch.sin(3 * y) - t.reshape(-1, 1) * y

    together = solve(field, y0, times, solver="fractional", alpha=0.7, dt=0.1)
    for i in range(3):
        alone = solve(field, y0[i : i + 1], times[i : i + 1], solver="fractional", alpha=0.7, dt=0.1)
        assert torch.equal(alone.y[0], together.y[i])


def test_what_fails_and_what_is_refused() -> None:
    found = solve(lambda y, t: y * y * y * 1e200, torch.tensor([[1.0], [0.0]]), [0.0, 1.0], solver="fractional", dt=0.1)
    assert found.status.tolist() == [Status.NOT_FINITE, Status.OK]
    for arguments, text in (
        ({"t_eval": [1.0, 0.0]}, "rising"),
        ({"alpha": 1.0}, "alpha"),
        ({"y0": torch.zeros(1, 2**15)}, "memory"),
    ):
        with pytest.raises(PlanError, match=text):
            solve(decay, **{"y0": torch.ones(1, 1), "t_eval": [0.0, 1.0], "solver": "fractional", **arguments})  # type: ignore[arg-type]
