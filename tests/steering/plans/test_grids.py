"""Grids: where the nodes of a plan lie."""

import pytest
import torch
from torch import Tensor

import steering
from steering import paths
from steering.errors import PlanError
from steering.paths import Path
from steering.plans.grids import GRIDS, nodes


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
    assert spread(torch.atan(torch.exp(-path.log_snr(nodes("angle", path, 20))))) < 1e-10
    assert spread(torch.exp(-path.log_snr(nodes("karras", path, 20)) / 7)) < 1e-9
    assert spread(torch.exp(-path.log_snr(nodes("karras(3)", path, 20)) / 3)) < 1e-9
    assert spread(nodes("quadratic", path, 20).sqrt()) < 1e-10
    t = (nodes("shifted(4)", path, 20) - path.t_min) / (path.t_max - path.t_min)
    assert spread(t / (4 - 3 * t)) < 1e-10  # t' = 4 t / (1 + 3 t), solved for t


def test_karras_is_equation_5():
    i = torch.arange(19, dtype=torch.float64) / 18
    sigma = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(nodes("karras", paths.edm(0.002, 80), 18), sigma, rtol=1e-12, atol=0)


def test_grids_without_a_number_have_their_usual_one(path: Path):
    assert torch.equal(nodes("karras", path, 9), nodes("karras(7)", path, 9))
    assert torch.equal(nodes("shifted", path, 9), nodes("shifted( 3.0 )", path, 9))
    torch.testing.assert_close(nodes("shifted(1)", path, 9), nodes("uniform", path, 9), rtol=1e-13, atol=1e-15)


def test_karras_of_one_is_uniform_in_rho_and_of_many_nearly_in_log_snr():
    path = paths.edm()
    torch.testing.assert_close(nodes("karras(1)", path, 9), nodes("uniform", path, 9), rtol=1e-12, atol=0)
    torch.testing.assert_close(nodes("karras(100)", path, 9), nodes("logsnr", path, 9), rtol=0.15, atol=0)


def test_a_shifted_grid_is_the_uniform_one_of_the_shifted_flow():
    """Esser et al. 2024, eq. 23: shifting the grid of a flow or the flow itself visits the same noise levels."""
    plain, shifted = paths.rectified_flow(t_min=0, t_max=1), paths.rectified_flow(t_min=0, t_max=1, shift=3)
    torch.testing.assert_close(
        plain.sigma(nodes("shifted(3)", plain, 12)), shifted.sigma(nodes("uniform", shifted, 12)), rtol=1e-13, atol=0
    )


def test_a_plan_names_its_grid_as_it_was_asked_for():
    plan = steering.plan("euler", path=paths.edm(), steps=4, prediction="x0", grid="karras(5)")
    assert plan.grid == "karras(5)"
    assert plan is not steering.plan("euler", path=paths.edm(), steps=4, prediction="x0", grid="karras")


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


@pytest.mark.parametrize("solver", sorted(steering.solvers))
def test_a_plan_without_a_grid_uses_its_solvers_own(solver: str):
    path = paths.vp_cosine()
    plan = steering.plan(solver, path=path, steps=5, prediction="eps")
    assert plan.grid == steering.solvers[solver].default_grid
    assert [node.t for node in plan.nodes] == nodes(plan.grid, path, 5).tolist()


@pytest.mark.parametrize(
    ("grid", "complaint"),
    [
        (
            "linear",
            r"unknown grid 'linear': expected one of angle, .*karras\(number\), .*logsnr, quadratic, .*sh",
        ),
        ("linear(3)", r"unknown grid 'linear\(3\)'"),
        ("karras(3", r"unknown grid 'karras\(3'"),
        ("karras(3)x", r"unknown grid 'karras\(3\)x'"),
        ("karras()", "grid 'karras': expected a number in 1..100, got ''"),
        ("karras(seven)", "grid 'karras': expected a number in 1..100, got 'seven'"),
        ("karras(nan)", "grid 'karras': expected a number in 1..100, got 'nan'"),
        ("karras(0.5)", "grid 'karras': expected a number in 1..100, got '0.5'"),
        ("shifted(-3)", "grid 'shifted': expected a number in 0.01..100, got '-3'"),
        ("logsnr(3)", r"grid 'logsnr' takes no number, got 'logsnr\(3\)'; grids that do: karras, shifted"),
        ([0.9, 0.1], "3 steps has 4 times, got 2"),
        ([0.9, 0.5, 0.6, 0.1], r"must fall strictly inside \[.*\], got 0.6 at 2 after 0.5$"),
        ([0.9, 0.5, 0.5, 0.1], r"must fall .* got 0.5 at 2 after 0.5$"),
        ([1.5, 0.5, 0.4, 0.1], r"must fall strictly inside \[0.001, .*\], got 1.5 at 0$"),
        ([0.9, 0.5, 0.4, 1e-4], r"must fall .* got 0.0001 at 3 after 0.4$"),
        ([0.9, float("nan"), 0.4, 0.1], r"must fall .* got nan at 1 after 0.9$"),
    ],
)
def test_impossible_grids_are_refused(grid, complaint: str):
    with pytest.raises(PlanError, match=complaint):
        nodes(grid, paths.vp_cosine(), 3)
