"""What the tests of the mathematics share: the paths, and a law whose every conditional expectation is known."""

from collections.abc import Iterator

import pytest
import torch

from steering import paths
from steering.paths import Path
from steering.problems import GaussianMixture


def gaussian_kinetic(mean: float, variance: float, reach: float = 7.0, levels: int = 400) -> paths.KineticOptimal:
    """The kinetic-optimal path of data N(mean, variance), from its exact denoising errors at log-SNR -reach..reach."""
    log_snr = torch.linspace(-reach, reach, levels, dtype=torch.float64)
    square = torch.exp(-2 * log_snr)
    mse = variance * square / (variance + square)
    path = paths.kinetic_optimal(log_snr=log_snr.tolist(), mse=mse.tolist(), second_moment=mean**2 + variance)
    assert isinstance(path, paths.KineticOptimal)
    return path


PATHS: dict[str, Path] = {
    "vp_cosine": paths.vp_cosine(),
    "vp_linear": paths.vp_linear(),
    "vp_discrete": paths.vp_discrete(alpha_bars=(paths.vp_linear().alpha(torch.arange(1, 201) / 200) ** 2).tolist()),
    "vp_betas": paths.vp_betas(),
    "vp_betas, zero terminal SNR": paths.vp_betas(zero_terminal_snr=True, steps=101),
    "sub_vp": paths.sub_vp(),
    "ve": paths.ve(),
    "edm": paths.edm(),
    "rectified_flow": paths.rectified_flow(),
    "rectified_flow, shifted": paths.rectified_flow(t_max=0.997, shift=3),
    "trig_flow": paths.trig_flow(),
    "one_sided": paths.one_sided(coefficients="sbdm"),
    "mean_reverting": paths.mean_reverting(sigma_inf=0.7),
    "kinetic_optimal": gaussian_kinetic(mean=0.8, variance=0.3),
}
TABLED = ("vp_discrete", "vp_betas", "vp_betas, zero terminal SNR", "kinetic_optimal")
CLOSED_PATHS = {name: path for name, path in PATHS.items() if name not in TABLED}
"""Those that go to any noise level, not only to those of a table."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors are small here: more threads would only wait for one another, for long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Path:
    """Each path in turn."""
    return PATHS[request.param]


@pytest.fixture(scope="session")
def mixture() -> GaussianMixture:
    """Three components in two dimensions."""
    return GaussianMixture.random(dimension=2, components=3, seed=0)
