"""One server for what is tested of ordinary differential equations."""

from collections.abc import Iterator

import pytest

from tests import dynamics
from tests.serving.live import running


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
