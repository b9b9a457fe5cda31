"""Strong convergence on a shared Brownian path.

With Gaussian data the reverse SDE is linear with additive noise, a time-dependent Ornstein-Uhlenbeck process. A step of
an exponential method multiplies past noise by Phi, its A, and adds its own; so the noise of a coarse step is the sum of
Phi times the noise of the fine steps within it, in law and on the path. (Noise that depends on the state, as in
geometric Brownian motion, does not occur: the diffusion of these processes depends on t alone.)
"""

import pytest
import torch
from torch import Tensor

import steering
from steering.plans.plan import Plan

from ..conftest import PATHS
from ..test_solvers import slopes

M, V, PATHS_DRAWN, FINEST = 0.7, 0.25, 200, 960


def marched(plan: Plan, x: Tensor, noises: list[Tensor]) -> Tensor:
    """The plan's result with the noise given, for data N(M, V)."""
    registers = [x]
    for stage, z in zip(plan.stages, noises, strict=True):
        at = stage.update.at
        gain = at.alpha * V / (at.alpha**2 * V + at.sigma**2)
        registers = stage.advance(registers, M + gain * (registers[0] - at.alpha * M), [z])
    return registers[0]


def coarsened(fine: Plan, coarse: Plan, noises: list[Tensor]) -> list[Tensor]:
    """The same Brownian path, as the noise of longer steps."""
    every = fine.steps // coarse.steps
    found = []
    for i, stage in enumerate(coarse.stages):
        total = torch.zeros_like(noises[0])
        variance = 0.0
        for step in range(i * every, (i + 1) * every):
            phi, scale = fine.stages[step].update.A[0][0], fine.stages[step].update.C[0][0]
            total = phi * total + scale * noises[step]
            variance = phi**2 * variance + scale**2
        scale = stage.update.C[0][0]
        assert variance == pytest.approx(scale**2, rel=1e-6)  # so the parts make up the whole
        found.append(total / scale)
    return found


@pytest.mark.parametrize("kind", ["vp_cosine", "edm", "rectified_flow"])
@pytest.mark.parametrize("solver", ["interpolant_sde", "dpmpp_2m"])
def test_strong_order_1_on_an_ornstein_uhlenbeck_process(solver: str, kind: str):
    """A multi-step method extrapolates D, but not the Brownian path within the step: its strong order is 1 too."""
    path = PATHS[kind]
    compiled = lambda steps: steering.plan(  # noqa: E731
        solver, path=path, steps=steps, prediction="x0", grid="logsnr", eta=1.0
    )
    fine = compiled(FINEST)
    g = torch.Generator().manual_seed(0)
    noises = [torch.randn(PATHS_DRAWN, generator=g, dtype=torch.float64) for _ in range(FINEST)]
    x = float(path.sigma(path.t_max)) * torch.randn(PATHS_DRAWN, generator=g, dtype=torch.float64)
    exact = marched(fine, x, noises)
    errors = []
    for steps in (30, 60, 120):
        plan = compiled(steps)
        errors.append(float((marched(plan, x, coarsened(fine, plan, noises)) - exact).pow(2).mean().sqrt()))
    assert slopes(errors) == pytest.approx([1, 1], abs=0.2)
