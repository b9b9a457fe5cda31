"""What tests of several parts share."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as the server has it, see serving/__init__.py
# clients of tests are not ours: they would ask a proxy for the servers on this machine
os.environ["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy"), "127.0.0.1,localhost"]))

if "PYTEST_XDIST_WORKER" in os.environ:  # one core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from tests.shapes import ROOMS

install_import_hook(ROOMS, "tests.shapes.checked")  # before anything imports them

from deploy.process import Running, running_server  # noqa: E402
from tests import networks, pipelines  # noqa: E402
from tests.serving.live import Live, running  # noqa: E402

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


@pytest.fixture(scope="session")
def served(small_models: Path) -> Iterator[Live]:
    """A front and a replica with `small_models`, in this process, for the client and the commands."""
    with running(small_models, answer_s=2.0, max_queue_rows=200_000) as live:
        yield live


@pytest.fixture(scope="session")
def picture_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository: the pipelines `tiny` and `filling`, their parts, the reward `redness`. To change, copy."""
    root = tmp_path_factory.mktemp("pictures")
    pipelines.write_pipeline(root)
    pipelines.write_pipeline(root, "filling", fills_in=True)
    pipelines.write_redness(root / "redness")
    return root


@pytest.fixture(scope="session")
def pictured(picture_models: Path) -> Iterator[Live]:
    """A front and two replicas with `picture_models`, in this process."""
    with running(picture_models, count=2, answer_s=2.0) as live:
        yield live


@pytest.fixture(scope="session")
def demo_server() -> Iterator[Running]:
    """A server of the demo's models, for what readers run: the documents' Python and the examples."""
    models = Path(__file__).resolve().parents[1] / "deploy" / "models"
    with running_server(models, options=["--threads-per-replica", "1"]) as server:
        yield server
