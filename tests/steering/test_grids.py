"""Grids: where the nodes of a plan lie."""

import pytest
import torch
from torch import Tensor

import steering
from steering import paths
from steering.errors import PlanError
from steering.grids import GRIDS, nodes
from steering.paths import Path


def spread(x: Tensor) -> float:
    """How far the differences of x are from being all equal."""
    return float(x.diff().max() - x.diff().min()) / float(x.diff().abs().mean())


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("grid", GRIDS)
def test_nodes_fall_from_one_end_to_the_other(path: Path, grid: str, steps: int):
    t = nodes(grid, path, steps)
    assert t.dtype == torch.float64
    assert t.shape == (steps + 1,)
    assert (float(t[0]), float(t[-1])) == (path.t_max, path.t_min)
    assert bool((t.diff() < 0).all())


def test_each_grid_is_uniform_in_its_own_variable(path: Path):
    assert spread(nodes("uniform", path, 20)) < 1e-10
    assert spread(path.log_snr(nodes("logsnr", path, 20))) < 1e-10
    assert spread(torch.exp(-path.log_snr(nodes("karras", path, 20)) / 7)) < 1e-9


def test_karras_is_equation_5():
    i = torch.arange(19, dtype=torch.float64) / 18
    sigma = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(nodes("karras", paths.edm(0.002, 80), 18), sigma, rtol=1e-12, atol=0)


def test_logsnr_of_a_geometric_path_is_uniform_in_time():
    path = paths.ve()
    torch.testing.assert_close(nodes("logsnr", path, 12), nodes("uniform", path, 12), rtol=0, atol=1e-12)


def test_an_explicit_grid_is_taken_as_it_is():
    path = paths.rectified_flow()
    times = (0.9, 0.5, 0.4, 0.001)
    plan = steering.plan("ddim", path=path, steps=3, prediction="x0", grid=times)
    assert tuple(node.t for node in plan.nodes) == times
    assert plan.grid == "explicit"
    assert [stage.t for stage in plan.stages] == [0.9, 0.5, 0.4]


@pytest.mark.parametrize("solver", steering.solvers)
def test_a_plan_without_a_grid_uses_its_solvers_own(solver: str):
    path = paths.vp_cosine()
    plan = steering.plan(solver, path=path, steps=5, prediction="eps")
    assert plan.grid == steering.solvers[solver].default_grid
    assert [node.t for node in plan.nodes] == nodes(plan.grid, path, 5).tolist()


@pytest.mark.parametrize(
    ("grid", "complaint"),
    [
        ("linear", "unknown grid 'linear': expected one of karras, logsnr, uniform"),
        ([0.9, 0.1], "3 steps has 4 times, got 2"),
        ([0.9, 0.5, 0.6, 0.1], "must fall"),
        ([0.9, 0.5, 0.5, 0.1], "must fall"),
        ([1.5, 0.5, 0.4, 0.1], "must fall"),
        ([0.9, 0.5, 0.4, 1e-4], "must fall"),
        ([0.9, float("nan"), 0.4, 0.1], "must fall"),
    ],
)
def test_impossible_grids_are_refused(grid, complaint: str):
    with pytest.raises(PlanError, match=complaint):
        nodes(grid, paths.vp_cosine(), 3)
