"""Linear stiff parts: closed forms, a reaction with diffusion, bits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor

from steering.dynamics import Event, Status, solve
from steering.errors import PlanError

SIZE = 24
GRID = (torch.arange(SIZE, dtype=torch.float64) + 1) / (SIZE + 1)


def laplacian(scale: float = 1.0) -> Tensor:
    """Second differences on 0..1 with zeros beyond: eigenvalues -9.8 .. -2400."""
    ones = torch.ones(SIZE, dtype=torch.float64)
    return scale * (SIZE + 1) ** 2 * (torch.diag(ones[1:], 1) + torch.diag(ones[1:], -1) - 2 * torch.diag(ones))


def reaction(y: Tensor, t: Tensor) -> Tensor:
    """Allen & Cahn."""
    return 20 * (y - y * y * y)


START = torch.stack([0.1 * torch.sin(torch.pi * GRID), 0.05 * torch.sin(2 * torch.pi * GRID)])


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
def test_a_reaction_with_diffusion(tolerance: float) -> None:
    matrix = laplacian().numpy()

    def whole(t: float, y: np.ndarray) -> np.ndarray:
        return 20 * (y - y**3) + matrix @ y

    times = torch.tensor([0.0, 0.13, 0.5], dtype=torch.float64)
    found = solve(reaction, START, times, solver="imex4", linear=laplacian(), rtol=tolerance, atol=tolerance)
    assert found.status.tolist() == [Status.OK] * 2
    for start, y in zip(START, found.y, strict=True):
        exact = solve_ivp(whole, (0, 0.5), start.numpy(), method="BDF", rtol=1e-9, atol=1e-11, t_eval=times.numpy()).y.T
        np.testing.assert_allclose(y.numpy(), exact, atol=50 * tolerance, rtol=0)
    assert int(found.evaluations.max()) < (250 if tolerance > 1e-5 else 1000)


def test_a_linear_field_alone() -> None:
    """Rates of 1 and 10^6: exp(L t), whose fast part is gone after the first of the times."""
    rates = torch.tensor([1.0, 1e6], dtype=torch.float64)
    found = solve(
        lambda y, t: 0 * y, torch.ones(1, 2), [0.0, 0.5, 2.0], solver="imex4", linear=torch.diag(-rates), rtol=1e-7,
        atol=1e-9,
    )  # fmt: skip
    torch.testing.assert_close(found.y[0, 1:, 0], torch.exp(-found.y.new_tensor([0.5, 2.0])), atol=1e-6, rtol=0)
    assert float(found.y[0, 1:, 1].abs().max()) < 1e-8


def test_events_and_what_is_refused() -> None:
    found = solve(
        reaction, START, [0.0, 0.5], solver="imex4", linear=laplacian(), events=[Event(SIZE // 2, level=0.2)]
    )  # fmt: skip
    assert found.status.tolist() == [Status.EVENT, Status.OK]
    for arguments in (
        {"solver": "imex4"},
        {"solver": "tsit5", "linear": laplacian()},
        {"solver": "imex4", "linear": laplacian()[:3]},
        {"solver": "imex4", "linear": laplacian() * torch.nan},
    ):
        with pytest.raises(PlanError, match="linear"):
            solve(reaction, START, [0.0, 0.5], **arguments)


@given(st.integers(2, 4), st.sampled_from([1, 3, 8]))
@settings(deadline=None, max_examples=6)
def test_alone_as_in_company(n: int, size: int) -> None:
    generator = torch.Generator().manual_seed(10 * n + size)
    y0 = torch.randn(n, size, dtype=torch.float64, generator=generator)
    matrix = 30 * torch.randn(size, size, dtype=torch.float64, generator=generator) - 100 * torch.eye(size)
    rtol = 10 ** -(1 + 5 * torch.rand(n, dtype=torch.float64, generator=generator))
    together = solve(reaction, y0, [0.0, 0.3], solver="imex4", linear=matrix, rtol=rtol)
    for i in range(n):
        alone = solve(reaction, y0[i : i + 1], [0.0, 0.3], solver="imex4", linear=matrix, rtol=rtol[i])
        assert torch.equal(alone.y[0], together.y[i])
