"""What the tests of the mathematics share: the paths, and a law whose every conditional expectation is known."""

from collections.abc import Iterator

import pytest
import torch

from steering import paths
from steering.paths import Path
from steering.problems import GaussianMixture

PATHS: dict[str, Path] = {
    "vp_cosine": paths.vp_cosine(),
    "vp_linear": paths.vp_linear(),
    "ve": paths.ve(),
    "edm": paths.edm(),
    "rectified_flow": paths.rectified_flow(),
}


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
