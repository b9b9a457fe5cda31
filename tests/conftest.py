"""What tests of several parts share."""

from pathlib import Path

import pytest
from hypothesis import settings

from tests import networks

# an example that takes long says only that the machine is busy
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository: the samplers `rings` and `stripes`, the rewards `nearness` and `nan`. To change, copy."""
    root = tmp_path_factory.mktemp("models")
    networks.write_rings(root)
    networks.write_stripes(root)
    networks.write_nearness(root)
    networks.write_nan(root)
    return root
