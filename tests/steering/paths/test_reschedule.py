"""Rescheduling: a network trained on one path, sampled on another."""

import pytest
import torch
from torch import Tensor

import steering
from steering import paths
from steering.paths import Path, reschedule
from steering.plans.predictions import PREDICTIONS
from steering.problems import GaussianMixture
from tests.steering.conftest import CLOSED_PATHS, PATHS

MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[0.8, -0.4], [-0.6, 0.5]], dtype=torch.float64),
    torch.tensor([[[0.5, 0.2], [0.2, 0.4]], [[0.3, -0.1], [-0.1, 0.6]]], dtype=torch.float64),
)


def end_point(trained: Path, onto: Path, solver: str, steps: int, grid: str, prediction: str = "x0") -> Tensor:
    """x / alpha at the end on a path, from x / alpha = rho z at its start, z the same on every path."""
    path = reschedule(trained, onto)
    plan = steering.plan(solver, path=path, trained=trained, steps=steps, prediction=prediction, grid=grid)
    z = torch.randn(16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    first, last = plan.nodes[0], plan.nodes[-1]
    x = steering.run(
        plan, MIXTURE.network(trained, prediction), (16, 2), x_init=first.sigma * z, dtype=torch.float64, tile=None
    )
    return x / last.alpha


@pytest.mark.parametrize("onto", CLOSED_PATHS)
@pytest.mark.parametrize("trained", PATHS)
def test_the_ends_have_the_trained_paths_rho(trained: str, onto: str):
    path, given = reschedule(PATHS[trained], CLOSED_PATHS[onto]), PATHS[trained]
    assert type(path) is type(CLOSED_PATHS[onto])
    for t, s in ((path.t_min, given.t_min), (path.t_max, given.t_max)):
        assert float(path.log_snr(t)) == pytest.approx(float(given.log_snr(s)), abs=1e-10)


def test_onto_itself_a_path_stays(path: Path):
    same = reschedule(path, path)
    assert (same.t_min, same.t_max) == pytest.approx((path.t_min, path.t_max), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("onto", CLOSED_PATHS)
def test_on_one_log_snr_grid_end_points_agree_up_to_rounding(onto: str, solver: str):
    """What works in log-SNR or rho takes the same steps on every path."""
    trained = paths.vp_linear()
    expected = end_point(trained, trained, solver, 12, "logsnr")
    torch.testing.assert_close(
        end_point(trained, CLOSED_PATHS[onto], solver, 12, "logsnr"), expected, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("trained", ["vp_cosine", "ve", "rectified_flow", "edm"])
def test_at_fine_steps_end_points_agree_on_grids_of_their_own(trained: str):
    """One flow: what is left of a different grid is the solver's error, fourth order in the step."""
    grids = {"vp_cosine": "logsnr", "ve": "karras(20)", "rectified_flow": "karras(15)", "edm": "karras(12)"}
    ends = [end_point(PATHS[trained], PATHS[name], "rho_rk4", 150, grid) for name, grid in grids.items()]
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_parameterisation_can_be_rescheduled(prediction: str):
    trained = paths.vp_cosine()
    expected = end_point(trained, trained, "dpmpp_2m", 8, "logsnr")
    moved = end_point(trained, paths.rectified_flow(), "dpmpp_2m", 8, "logsnr", prediction)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)


def test_the_network_is_asked_at_times_of_its_own_path():
    trained, asked = paths.vp_betas(), []
    exact = MIXTURE.network(trained, "eps")

    def network(x: Tensor, t: Tensor) -> Tensor:
        asked.append(t)
        return exact(x, t)

    path = reschedule(trained, paths.edm())
    plan = steering.plan("heun", path=path, trained=trained, steps=10, prediction="eps", grid="karras")
    steering.run(plan, network, (4, 2), dtype=torch.float64)
    seen = torch.cat(asked)
    assert float(seen.max()) == trained.t_max
    assert trained.t_min <= float(seen.min()) < 0.05


@pytest.mark.parametrize(
    ("trained", "onto", "complaint"),
    [
        (paths.rectified_flow(t_max=1.0), paths.edm(), "finite log-SNR at both ends of the trained path, got -inf"),
        (paths.rectified_flow(t_min=0.0), paths.edm(), r"finite log-SNR .*\.\.inf"),
        (paths.edm(), paths.vp_betas(), "1000 steps has times in 0.001..1"),
        (paths.edm(1e-5, 1e5), PATHS["kinetic_optimal"], "fitted at log-SNR -7..7 cannot span -11.5129..11.5129"),
    ],
)
def test_ranges_that_cannot_be_spanned_are_refused(trained: Path, onto: Path, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        reschedule(trained, onto)
