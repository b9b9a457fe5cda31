"""One folder of exported models of dynamics, and one server of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import dynamics
from tests.serving.live import Live, running
from tiltserve import Client


@pytest.fixture(scope="session")
def decays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository: decay, decay64, coded and blowing."""
    root = tmp_path_factory.mktemp("dynamics") / "models"
    dynamics.write_decay(root)
    dynamics.write_decay(root, "decay64", torch.float64)
    dynamics.write_decay(root, "coded", torch.float64, coded=True)
    dynamics.write_blowing(root)
    return root


@pytest.fixture(scope="session")
def decaying(decays: Path) -> Iterator[Live]:
    """A server of them with one replica."""
    with running(decays) as live:
        yield live


@pytest.fixture(scope="session")
def solving(decaying: Live) -> Iterator[Client]:
    """Its client."""
    with Client(decaying.address) as client:
        yield client


@pytest.fixture(scope="session")
def odes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of small fields with known solutions."""
    root = tmp_path_factory.mktemp("odes") / "models"
    dynamics.write_turning(root)
    dynamics.write_decay(root)
    dynamics.write_plain_ode(root, "stiff", dynamics.Stiff(), 3)
    dynamics.write_plain_ode(root, "saddle", dynamics.Saddle(), 2)
    dynamics.write_plain_ode(root, "hunting", dynamics.Hunting(), 2, rates=(3,), death=())
    with running(root) as live:
        yield live.address
