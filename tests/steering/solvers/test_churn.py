"""Churn: algorithm 2 of its paper written out, the law it leaves, and its bounds."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering.errors import PlanError
from steering.numerics.noise import Draw, Noise
from steering.plans.plan import Plan

from ..conftest import PATHS
from ..test_solvers import MIXTURE, law, slopes, start

CHURN = {"churn": 3.0, "churn_min": 0.05, "churn_max": 20.0, "churn_noise": 1.003}


def compiled(solver: str, kind: str, steps: int, **options: Any) -> Plan:
    return steering.plan(solver, path=PATHS[kind], steps=steps, prediction="x0", **options)


def algorithm_2(x: Tensor, times: list[float], denoiser: Callable[[Tensor, float], Tensor], heun: bool) -> Tensor:
    """Karras et al. 2022, with s(t) = 1 and sigma(t) = t, but for the first step, which is not lifted."""
    noise, gamma = Noise(5, range(len(x))), min(CHURN["churn"] / (len(times) - 1), math.sqrt(2) - 1)
    stage = 0
    for i, (t, after) in enumerate(pairwise(times)):
        lifted = t
        if i > 0 and CHURN["churn_min"] <= t <= CHURN["churn_max"]:
            lifted = t + gamma * t
            z = noise.normal(stage - 1, Draw.SOLVER, x.shape[1:])
            x = x + math.sqrt(lifted**2 - t**2) * CHURN["churn_noise"] * z
        d = (x - denoiser(x, lifted)) / lifted
        new = x + (after - lifted) * d
        stage += 1
        if heun and i < len(times) - 2:
            new = x + (after - lifted) * (d + (new - denoiser(new, after)) / after) / 2
            stage += 1
        x = new
    return x


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_it_is_algorithm_2_of_its_paper(solver: str):
    path, x = PATHS["edm"], start(PATHS["edm"], 2)
    network = MIXTURE.network(path)
    plan = compiled(solver, "edm", 9, **CHURN)
    denoiser = lambda x, t: network(x, torch.full((len(x),), t, dtype=torch.float64))  # noqa: E731
    wanted = algorithm_2(x, [node.t for node in plan.nodes], denoiser, heun=solver == "heun")
    ours = steering.run(plan, network, (16, 2), seed=5, x_init=x, dtype=torch.float64)
    assert torch.allclose(ours, wanted, rtol=1e-9)


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_law_goes_to_that_of_the_data_with_the_solvers_order(solver: str, kind: str):
    m, v, errors = 0.7, 0.25, []
    for steps in (160, 320, 640):
        plan = compiled(solver, kind, steps, grid="logsnr", churn=10.0)
        last = plan.nodes[-1]
        mean, variance = law(plan, m, v)
        assert mean == pytest.approx(last.alpha * m, abs=1e-9)
        errors.append(abs(variance - (last.alpha**2 * v + last.sigma**2)) / v)
    assert errors[-1] < 0.03
    assert slopes(errors) == pytest.approx([steering.solvers[solver].order] * 2, abs=0.2)


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_point_mass_stays_exact(solver: str, kind: str):
    """Noise is added and removed by steps that are exact for a constant denoiser."""
    plan = compiled(solver, kind, 20, churn=30.0)
    last = plan.nodes[-1]
    mean, variance = law(plan, 3.0, 0.0)
    assert mean == pytest.approx(3 * last.alpha, rel=1e-9)
    assert variance == pytest.approx(last.sigma**2, rel=1e-5)


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_network_is_never_asked_outside_the_paths_range(solver: str, kind: str):
    path = PATHS[kind]
    plan = compiled(solver, kind, 50, churn=1e9)  # gamma at its cap: levels up to sqrt 2 times their node's
    asked = [stage.update.at for stage in plan.stages]
    assert all(path.t_min <= node.t <= path.t_max for node in asked)
    nodes = {node.t: node for node in plan.nodes}
    lifted = [node for node in asked if node.t not in nodes]
    assert len(lifted) >= 40  # those next to the top are held at the top itself
    lifts = [node.rho / min((n.rho for n in plan.nodes if n.rho < node.rho), key=lambda r: -r) for node in lifted]
    assert max(lifts) <= math.sqrt(2) * (1 + 1e-9)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_noise_is_drawn_only_where_there_is_churn(solver: str):
    assert not compiled(solver, "edm", 6).uses_noise
    assert not compiled(solver, "edm", 6, churn=0.0, churn_noise=2.0).uses_noise
    assert compiled(solver, "edm", 6, churn=1.0).uses_noise
    assert not compiled(solver, "edm", 6, churn=1.0, churn_min=100.0).uses_noise  # above every level
    assert compiled(solver, "edm", 6, churn=0.0).stages == compiled(solver, "edm", 6).stages


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"churn": -1.0}, r"churn: expected a number in 0\.\.inf, got -1.0"),
        ({"churn": math.nan}, r"churn: expected a number in 0\.\.inf, got nan"),
        ({"churn": "lots"}, r"churn: expected a number in 0\.\.inf, got 'lots'"),
        ({"churn_noise": True}, r"churn_noise: expected a number in 0\.\.10, got True"),
        ({"solver": "ddim", "churn": 1.0}, "churn: solver 'ddim' has no such option; solvers that have: .*euler, heun"),
        ({"chrun": 1.0}, "unknown option 'chrun'.*churn"),
        ({"churn": 1.0, "reverse": True}, "'heun' cannot run in reverse"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: dict[str, Any], complaint: str):
    arguments: dict[str, Any] = {"solver": "heun", "path": PATHS["edm"], "steps": 5, "prediction": "x0"}
    with pytest.raises(PlanError, match=complaint):
        steering.plan(**arguments | options)
