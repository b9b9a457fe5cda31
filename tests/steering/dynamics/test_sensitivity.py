"""Exponents of flows in closed form, and of the double gyre."""

import math

import pytest
import torch
from torch import Tensor

from steering.dynamics import Event, Status, ftle, pose
from steering.dynamics.sensitivity import stretching
from steering.dynamics.table import SOLVERS
from steering.errors import PlanError


def saddle(y: Tensor, t: Tensor) -> Tensor:
    return torch.stack([y[:, 0], -y[:, 1]], 1)


def pendulum(y: Tensor, t: Tensor) -> Tensor:
    return torch.stack([y[:, 1], -torch.sin(y[:, 0])], 1)


def gyre(y: Tensor, t: Tensor) -> Tensor:
    """The double gyre of Shadden, Lekien & Marsden 2005: A = .1, eps = .1, omega = 2 pi / 10."""
    a = 0.1 * torch.sin(2 * math.pi / 10 * t)
    f = a * y[:, 0] ** 2 + (1 - 2 * a) * y[:, 0]
    slope = 2 * a * y[:, 0] + 1 - 2 * a
    pi, amplitude = math.pi, 0.1
    return torch.stack([
        -pi * amplitude * torch.sin(pi * f) * torch.cos(pi * y[:, 1]),
        pi * amplitude * torch.cos(pi * f) * torch.sin(pi * y[:, 1]) * slope,
    ], 1)  # fmt: skip


def test_a_saddle() -> None:
    points = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for times in ([0.0, 1.0, 3.0], [0.0, -1.0, -3.0]):
        found = ftle(saddle, points, times)
        assert bool(found.exponents[:, 0].isnan().all())
        torch.testing.assert_close(found.exponents[:, 1:, 0], torch.ones(4, 2, dtype=torch.float64), atol=1e-7, rtol=0)
        torch.testing.assert_close(found.exponents[:, 1:, 1], -torch.ones(4, 2, dtype=torch.float64), atol=1e-7, rtol=0)
    assert found.solution.y.shape == (4, 3, 2)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-6), (torch.float32, 3e-3)])
def test_the_double_gyre(dtype: torch.dtype, within: float) -> None:
    """Beside its variational equation, by scipy's DOP853 at rtol 1e-11."""
    points = torch.tensor([[0.5, 0.5], [1.0, 0.3], [1.6, 0.2], [0.95, 0.9]], dtype=torch.float64)
    exact = torch.tensor([0.0324747775, 0.2466773241, 0.1219223053, 0.2355675584], dtype=torch.float64)
    found = ftle(gyre, points, [0.0, 10.0], dtype=dtype)
    torch.testing.assert_close(found.exponents[:, 1, 0], exact, atol=within, rtol=0)


def test_areas_are_kept_whatever_the_tolerance() -> None:
    """The two exponents of a Hamiltonian flow add to 0: copies share their steps, so rough ones do no harm."""
    points = torch.tensor([[0.5, 0.5], [3.0, 0.0]], dtype=torch.float64)
    rough = ftle(pendulum, points, [0.0, 5.0], rtol=1e-3, atol=1e-3)
    assert float(rough.exponents[:, 1].sum(1).abs().max()) < 2e-3
    copies = rough.solution.evaluations // 5
    assert torch.equal(copies * 5, rough.solution.evaluations)


def test_alone_as_in_company() -> None:
    points = torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = ftle(gyre, points, [0.0, 5.0])
    for i in range(5):
        alone = ftle(gyre, points[i : i + 1], [0.0, 5.0])
        assert torch.equal(alone.exponents[0, 1], together.exponents[i, 1])
        assert torch.equal(alone.solution.y[0], together.solution.y[i])


def test_what_fails_and_what_is_refused() -> None:
    points = torch.tensor([[1.0, 1.0], [math.nan, 0.0]], dtype=torch.float64)
    found = ftle(saddle, points, [0.0, 1.0])
    assert found.solution.status.tolist() == [Status.OK, Status.NOT_FINITE]
    assert found.exponents[:, 1, 0].isnan().tolist() == [False, True]
    for solver, y0, more, text in (
        ("esdirk4", points, {}, "explicit"),
        ("tsit5", points, {"events": [Event(0)]}, "events"),
        ("tsit5", torch.zeros(1, 65), {}, "64"),
    ):
        problem = pose(SOLVERS[solver], y0, [0.0, 1.0], **more)  # type: ignore[arg-type]
        with pytest.raises(PlanError, match=text):
            next(stretching(SOLVERS[solver], problem))
