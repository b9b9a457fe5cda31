"""Methods in the path's own time, against loops over dx/dt = u(x, t) written out."""

from itertools import pairwise

import pytest
import torch

import steering
from steering.paths import Path

from ..conftest import PATHS
from ..test_solvers import MIXTURE, law

STEPS = 8
IN_TIME = ["flow_euler", "flow_ab2", "interpolant_ode"]


def looped(name: str, path: Path, x: torch.Tensor) -> torch.Tensor:
    """The method on the velocity alone, in equal steps."""
    network = MIXTURE.network(path, "velocity")
    velocity = lambda x, t: network(x, torch.full((len(x),), float(t), dtype=torch.float64))  # noqa: E731
    before = None
    for s, t in pairwise(torch.linspace(path.t_max, path.t_min, STEPS + 1, dtype=torch.float64)):
        h, u = t - s, velocity(x, s)
        if name == "interpolant_ode":
            x = x + h * velocity(x + h / 2 * u, s + h / 2)
        else:
            x = x + h * (u if before is None or name == "flow_euler" else 1.5 * u - 0.5 * before)
        before = u
    return x


@pytest.mark.parametrize("name", IN_TIME)
def test_the_plan_does_what_a_loop_over_the_velocity_does(path: Path, name: str):
    x = float(path.sigma(path.t_max)) * torch.randn(
        4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    plan = steering.plan(name, path=path, steps=STEPS, prediction="velocity", grid="uniform")
    ours = steering.run(plan, MIXTURE.network(path, "velocity"), (4, 2), x_init=x, dtype=torch.float64)
    assert torch.allclose(ours, looped(name, path, x), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", ["edm", "rectified_flow"])
def test_euler_in_time_is_euler_in_rho_where_the_path_is_straight(kind: str):
    ours, rhos = (
        steering.plan(name, path=PATHS[kind], steps=9, prediction="x0", grid="uniform").stages
        for name in ("flow_euler", "euler")
    )
    for one, other in zip(ours, rhos, strict=True):
        assert one.update.A[0] == pytest.approx(other.update.A[0], rel=1e-9)
        assert one.update.b == pytest.approx(other.update.b, rel=1e-9)


@pytest.mark.parametrize("name", IN_TIME)
def test_a_point_mass_is_exact_on_straight_paths_only(name: str):
    def error(kind: str, t_min: float, t_max: float) -> float:
        plan = steering.plan(name, path=PATHS[kind].between(t_min, t_max), steps=3, prediction="x0")
        last = plan.nodes[-1]
        mean, variance = law(plan, 3.0, 0.0)
        return abs(mean / last.alpha - 3) + abs(variance / last.sigma**2 - 1)

    assert error("edm", 0.1, 5.0) < 1e-9
    assert error("rectified_flow", 0.05, 0.95) < 1e-9
    assert error("vp_cosine", 0.05, 0.95) > 1e-3
