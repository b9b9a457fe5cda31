"""Multi-step consistency sampling: exact with an exact consistency function, and only with one."""

import pytest
import torch
from torch import Tensor

import steering
from steering.numerics.noise import START, Draw, Noise
from steering.paths import Path
from steering.plans.plan import Plan

from ..conftest import PATHS
from ..test_solvers import law

M = 0.7


def function(path: Path, v: float, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Where the flow of data N(M, v) takes x, at t_min, over alpha there: y - M grows like sqrt(v + rho^2)."""
    floor = path.sigma(path.t_min) / path.alpha(path.t_min)
    return M + (x / alpha - M) * torch.sqrt((v + floor**2) / (v + (sigma / alpha) ** 2))


def compiled(path: Path, steps: int) -> Plan:
    return steering.plan("consistency", path=path, steps=steps, prediction="x0")


@pytest.mark.parametrize("v", [0.0, 0.25])
def test_an_exact_consistency_function_gives_every_marginal_law_exactly(path: Path, v: float):
    """In any number of steps, for a point mass too."""
    for steps in (1, 2, 5):
        plan = compiled(path, steps)
        first = plan.nodes[0]
        mean, variance = first.alpha * M, first.alpha**2 * v + first.sigma**2
        for stage in plan.stages:
            s, t, update = stage.update.at, stage.update.to, stage.update
            ends = [
                float(function(path, v, *torch.tensor([x, s.alpha, s.sigma], dtype=torch.float64)))
                for x in (mean, mean + variance**0.5)
            ]
            assert update.A == ((0.0,),)
            mean = update.b[0] * ends[0]
            variance = (update.b[0] * (ends[1] - ends[0])) ** 2 + (update.C[0][0] if update.C else 0) ** 2
            assert mean == pytest.approx(t.alpha * M, rel=1e-9)
            assert variance == pytest.approx(t.alpha**2 * v + t.sigma**2, rel=1e-6)


def test_it_is_algorithm_1_of_the_paper():
    """On EDM's path, where time is the noise level: x = f(x_T, T); x = f(x + sqrt(t^2 - t_min^2) z, t), ..."""
    path, noise = PATHS["edm"], Noise(4, range(3))
    f = lambda x, t: function(path, 0.25, x, torch.ones_like(t)[:, None], t[:, None])  # noqa: E731
    plan = compiled(path, 4)
    taus = [torch.full((3,), node.t, dtype=torch.float64) for node in plan.nodes[:-1]]
    x = f(taus[0][:, None] * noise.normal(START, Draw.SOLVER, (2,)), taus[0])
    for i, tau in enumerate(taus[1:]):
        z = noise.normal(i, Draw.SOLVER, (2,))
        x = f(x + torch.sqrt(tau**2 - path.t_min**2)[:, None] * z, tau)
    assert torch.allclose(steering.run(plan, f, (3, 2), seed=4, dtype=torch.float64), x, rtol=1e-9)


def test_a_mean_is_no_sample(path: Path):
    """An ordinary denoiser loses variance that more steps do not bring back, where ddim's error goes to 0."""
    v = 0.25
    lost = [1 - law(compiled(path, steps), M, v)[1] / (plan_end(path) ** 2 * v) for steps in (1, 20, 640)]
    assert all(share > 0.2 for share in lost)


def plan_end(path: Path) -> float:
    return float(path.alpha(path.t_min))
