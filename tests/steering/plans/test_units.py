"""Nodes and intervals in times, sigmas, noise levels and log-SNRs; and explicit grids."""

import math

import pytest
import torch

import steering
from steering import paths
from steering.errors import PlanError
from steering.paths import Path
from steering.plans import units


def in_units(path: Path, times: torch.Tensor) -> dict[str, torch.Tensor]:
    log_snr = path.log_snr(times)
    return {"t": times, "sigma": path.sigma(times), "rho": torch.exp(-log_snr), "logsnr": log_snr}


def test_every_unit_says_the_same_times(path: Path):
    times = torch.linspace(path.t_max, path.t_min, 9, dtype=torch.float64)
    for unit, values in in_units(path, times).items():
        for given in (values, values.to(torch.float32), values.tolist()):
            grid = units.explicit(given, unit, path, 1001)
            assert (grid[0], grid[-1]) == (path.t_max, path.t_min), unit
            found = torch.tensor(grid, dtype=torch.float64)
            torch.testing.assert_close(path.log_snr(found[1:-1]), path.log_snr(times[1:-1]), rtol=2e-5, atol=2e-5)


def test_an_explicit_grid_makes_the_plan_that_its_name_makes(path: Path):
    named = steering.plan("dpmpp_2m", path=path, steps=7, prediction="x0", grid="logsnr")
    grid = units.explicit([node.log_snr for node in named.nodes], "logsnr", path, 1001)
    plan = steering.plan("dpmpp_2m", path=path, steps=7, prediction="x0", grid=grid)
    for mine, other in zip(plan.stages, named.stages, strict=True):
        assert mine.update.b == pytest.approx(other.update.b, rel=1e-6, abs=1e-9)


ENDLESS: dict[str, Path] = {
    "flow [0, 1]": paths.rectified_flow(t_min=0.0, t_max=1.0),
    "flow [0, .999]": paths.rectified_flow(t_min=0.0),
    "flow [.001, 1]": paths.rectified_flow(t_max=1.0),
    "trig flow [0, 1]": paths.trig_flow(t_min=0.0, t_max=1.0),
    "edm [0, 80]": paths.edm().between(0.0, 80.0),
    "zero terminal": paths.vp_betas(zero_terminal_snr=True).between(0.001, 1.0),
}


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("unit", units.UNITS)
def test_nodes_lie_between_ends_that_have_no_number(name: str, unit: str):
    """Where a unit is infinite at an end no node can be given there; the others are what they say."""
    path = ENDLESS[name]
    times = torch.linspace(path.finite.t_max, path.finite.t_min, 7, dtype=torch.float64)
    times[0], times[-1] = path.t_max, path.t_min
    values = in_units(path, times)[unit]
    there = values.isfinite()
    found = torch.tensor(units.explicit(values[there], unit, path, 1001), dtype=torch.float64)
    torch.testing.assert_close(found, times[there], rtol=1e-6, atol=1e-9)
    for end, first in ((path.t_max, 0), (path.t_min, -1)):  # rounding must not lose an end that can be given
        assert float(found[first]) == end or not there[first]
    if len(found) == len(times):
        steps = len(found) - 1
        plan = steering.plan("ddim", path=path, steps=steps, prediction="x0", grid=found.tolist())
        assert plan.steps == steps
    with pytest.raises(PlanError, match="grid: expected finite nodes, got NaN or infinity"):
        units.explicit([math.inf, 0.5], unit, path, 1001)


def test_a_grid_of_noise_levels_of_edm_may_end_without_noise():
    path = paths.edm().between(0.0, 80.0)
    assert units.explicit([80.0, 5.0, 0.0], "rho", path, 1001) == pytest.approx((80.0, 5.0, 0.0))
    wanted = (80.0, 5.0, math.exp(-3.0))
    assert units.explicit([-math.log(80), -math.log(5), 3.0], "logsnr", path, 1001) == pytest.approx(wanted)
    flow = paths.rectified_flow(t_min=0.0, t_max=1.0)
    assert units.explicit([9.0, 1.0, 0.25], "rho", flow, 1001) == pytest.approx((0.9, 0.5, 0.2))


RF, EDM = paths.rectified_flow(t_min=0.001, t_max=0.999), paths.edm(sigma_min=0.02, sigma_max=80.0)


@pytest.mark.parametrize(
    ("path", "unit", "values", "expected"),
    [
        (RF, "t", [0.9], r"grid: expected 2..1001 nodes in one row, got \[1\]"),
        (RF, "t", [[0.9, 0.1]], r"grid: expected 2..1001 nodes in one row, got \[1, 2\]"),
        (RF, "t", [1 - i / 2000 for i in range(1002)], r"grid: expected 2..1001 nodes in one row, got \[1002\]"),
        (RF, "t", [0.9, math.nan], "grid: expected finite nodes, got NaN or infinity"),
        (RF, "t", [math.inf, 0.5], "grid: expected finite nodes, got NaN or infinity"),
        (RF, "t", [1.0, 0.5], "grid: expected nodes in 0.999..0.001, got 1 at 0$"),
        (RF, "t", [0.9, 0.0], "grid: expected nodes in 0.999..0.001, got 0 at 1$"),
        (RF, "t", [0.9, 0.5, 0.5, 0.1], "grid: expected t strictly from noise to data, .* got 0.5 and then 0.5 at 2$"),
        (RF, "t", [0.1, 0.5], "grid: expected t strictly from noise to data, .* got 0.1 and then 0.5 at 1$"),
        (EDM, "sigma", [100.0, 1.0], "grid: expected nodes in 80..0.02, got 100 at 0$"),
        (EDM, "rho", [80.0, 0.01], "grid: expected nodes in 80..0.02, got 0.01 at 1$"),
        (EDM, "rho", [80.0, -1.0], "grid: expected nodes in 80..0.02, got -1 at 1$"),
        (EDM, "rho", [80.0, 0.0], "grid: expected nodes in 80..0.02, got 0 at 1$"),
        (
            EDM,
            "logsnr",
            [3.0, -3.0],
            "grid: expected logsnr strictly from noise to data, -4.38.*, got 3 and then -3 at 1",
        ),
        (
            RF,
            "t",
            [0.9, 0.9 - 1e-9, 0.1],
            "grid: expected nodes at least 1e-05 of log-SNR apart, got 0.9 and then 0.8999",
        ),
        (EDM, "snr", [4.0, -4.0], "unknown unit 'snr': expected one of logsnr, rho, sigma, t"),
    ],
)
def test_what_is_no_grid(path: Path, unit: str, values: list[float], expected: str):
    with pytest.raises(PlanError, match=expected) as caught:
        units.explicit(values, unit, path, 1001)
    assert "\n" not in str(caught.value)


def test_an_interval_is_in_log_snr_the_noise_first():
    half = -math.log(2.0)
    for unit, low, high in (("rho", 0.5, 2.0), ("t", 1 / 3, 2 / 3), ("sigma", 1 / 3, 2 / 3), ("logsnr", half, -half)):
        assert units.interval(low, high, unit, RF) == pytest.approx((half, -half)), unit
    assert units.interval(None, 2.0, "rho", RF) == pytest.approx((half, math.inf))
    assert units.interval(half, None, "logsnr", RF) == pytest.approx((half, math.inf))
    assert units.interval(0.0, 1.0, "t", RF) == (-math.inf, math.inf)
    assert units.interval(0.0, 1.0, "rho", RF) == pytest.approx((0.0, math.inf))
    assert units.interval(2.0, None, "t", RF) == (-math.inf, -math.inf)  # beyond the path: nothing is inside
    assert units.interval(None, 1e-9, "sigma", RF) == (math.inf, math.inf)
    with pytest.raises(PlanError, match="interval: expected two values of rho, the lower first, got 2 and 1"):
        units.interval(2.0, 1.0, "rho", RF)
    with pytest.raises(PlanError, match="unknown unit 'steps'"):
        units.interval(0.0, 1.0, "steps", RF)
