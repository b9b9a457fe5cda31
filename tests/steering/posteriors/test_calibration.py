"""V(t), the mean squared error of the denoised estimate: measured, interpolated, and what stands in for it."""

import math
from collections import Counter
from collections.abc import Callable, Generator

import pytest
import torch
from torch import Tensor

from steering import paths
from steering.paths import Path
from steering.posteriors.calibration import ROWS_PER_TIME, TIMES, Calibration, Uncalibrated, calibrate
from steering.problems import GaussianMixture
from steering.sampling.rows import Rows, answered, metered

VARIANCE = 0.4


def driven(rows: Generator[Rows, Tensor, Calibration], network: Callable[[Tensor, Tensor], Tensor]):
    """What a generator returns when a network answers it, with the number of rows it asked for."""
    meter: Counter[str] = Counter()
    curve = answered(metered(rows, meter), lambda request: network(request.x, request.t))
    return curve, meter["network"]


def gaussian(variance: float, dimension: int = 64) -> GaussianMixture:
    return GaussianMixture(
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, dimension, dtype=torch.float64),
        variance * torch.eye(dimension, dtype=torch.float64)[None],
    )


def test_measured_on_a_gaussian_it_is_the_posterior_variance(path: Path):
    law = gaussian(VARIANCE)
    calibration, asked = driven(calibrate(law.sample(256, 0), path, "velocity"), law.network(path, "velocity"))
    assert asked == TIMES * ROWS_PER_TIME
    assert len(calibration.t) == TIMES
    assert (calibration.t[0], calibration.t[-1]) == (path.t_min, path.t_max)
    exact = [Uncalibrated(VARIANCE).variance(path, t) for t in calibration.t]
    assert calibration.mse == pytest.approx(exact, rel=5 * math.sqrt(2 / (256 * 64)))


def test_a_raw_edm_network_is_calibrated_through_its_preconditioning():
    """On N(0, sd^2 I) the raw network that is 0 everywhere is exact."""
    path = paths.edm()
    samples = gaussian(VARIANCE).sample(256, 0)
    rows = calibrate(samples, path, "x0", "edm", VARIANCE**0.5)
    calibration, _ = driven(rows, lambda x, t: torch.zeros_like(x))
    exact = [Uncalibrated(VARIANCE).variance(path, t) for t in calibration.t]
    assert calibration.mse == pytest.approx(exact, rel=5 * math.sqrt(2 / (256 * 64)))


def test_events_of_any_shape_and_few_samples_will_do():
    path = paths.vp_cosine()
    law = gaussian(VARIANCE, 12)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return law.network(path)(x.flatten(1), t).reshape(x.shape)

    flat, _ = driven(calibrate(law.sample(10, 0), path, "x0"), law.network(path))
    shaped, asked = driven(calibrate(law.sample(10, 0).reshape(10, 3, 2, 2), path, "x0"), network)
    assert asked == TIMES * 10
    assert shaped == flat


@pytest.mark.parametrize("data", [0.1, 1.0, 25.0])
def test_uncalibrated_is_the_posterior_variance_of_a_gaussian(path: Path, data: float):
    """1 / V = 1 / data + alpha^2 / sigma^2: precisions add."""
    for t in torch.linspace(path.t_min, path.t_max, 9, dtype=torch.float64).tolist():
        precision = 1 / data + float(torch.exp(2 * path.log_snr(t)))
        assert Uncalibrated(data).variance(path, t) == pytest.approx(1 / precision, rel=1e-9)


def test_between_recorded_times_it_is_a_power_of_the_noise_level():
    path = paths.edm()
    calibration = Calibration((0.1, 1.0, 10.0), (0.01, 1.0, 2.0))
    for t in (0.1, 0.2, 0.7, 1.0):
        assert calibration.variance(path, t) == pytest.approx(t**2, rel=1e-12)
    assert calibration.variance(path, 10**0.5) == pytest.approx(2**0.5, rel=1e-12)


def test_beyond_recorded_times_it_is_constant():
    calibration = Calibration((0.1, 1.0), (0.01, 1.0))
    assert calibration.variance(paths.edm(), 0.01) == 0.01
    assert calibration.variance(paths.edm(), 50) == 1.0


def test_an_error_of_zero_does_no_harm():
    assert 0 < Calibration((0.1, 1.0), (0.0, 1.0)).variance(paths.edm(), 0.3) < 1e-6


@pytest.mark.parametrize(
    ("t", "mse"),
    [
        ((0.1, 1.0), (0.1,)),
        ((0.1,), (0.1,)),
        ((1.0, 0.1), (0.1, 0.2)),
        ((0.1, 0.1), (0.1, 0.2)),
        ((0.1, 1.0), (0.1, -0.2)),
        ((0.1, 1.0), (0.1, math.nan)),
    ],
)
def test_impossible_curves_are_refused(t: tuple[float, ...], mse: tuple[float, ...]):
    with pytest.raises(ValueError, match="calibration: expected"):
        Calibration(t, mse)
