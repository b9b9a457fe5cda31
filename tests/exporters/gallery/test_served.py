"""Models of the gallery over the wire: a real client, a real front and replica, and what is known of them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from exporters.gallery import chromatograph, ecg, neurosonic, stations
from tests.serving.live import running
from tiltserve import Client

SHIPPED = Path(__file__).resolve().parents[3] / "deploy" / "gallery_models"
MODELS = ("stations", "neurosonic-exact", "chromatograph", "ecg", "ecg.twelve")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    root = tmp_path_factory.mktemp("gallery") / "models"
    for name in MODELS:
        shutil.copytree(SHIPPED / name, root / name)
    with running(root) as live, Client(live.address) as client:
        yield client


def test_a_puff_follows_the_matrix_exponential(client: Client):
    wind, puff = np.array([[1.0, 0.5], [-0.3, 0.2]]), np.eye(stations.STATIONS)[:2]
    found = client.solve("stations", puff, [0.0, 2.0], wind=wind, diffusivity=[0.1, 0.4], rtol=1e-9, atol=1e-12)
    for row, strength in enumerate((0.1, 0.4)):
        flow = torch.linalg.matrix_exp(2 * stations.matrix(torch.from_numpy(wind[row]), strength))
        np.testing.assert_allclose(np.asarray(found)[row, -1], flow.numpy()[:, row], atol=1e-9)


def test_speech_comes_from_eeg_as_the_closed_form_says(client: Client):
    law = neurosonic.joint()
    x0, eeg = neurosonic.corrupted(law, 4, seed=3)
    found = client.solve("neurosonic-exact", x0.numpy(), [0.0, 1.0], eeg=eeg.numpy(), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(np.asarray(found)[:, -1], neurosonic.Exact(law).carried(x0, eeg).numpy(), atol=1e-7)


def test_a_column_s_breakthrough_is_the_inverse_transform(client: Client):
    times = np.array([0.0, 1.0, 2.5])
    found = client.solve(
        "chromatograph", np.zeros((1, 2, chromatograph.CELLS)), times, speed=1.0, attach=1.0, detach=2.0, rtol=1e-8
    )
    exact = chromatograph.breakthrough(torch.from_numpy(times[1:]), 1.0, 1.0, 2.0)
    np.testing.assert_allclose(np.asarray(found)[0, 1:, 0, -1], exact.numpy(), atol=1e-5)


def test_twelve_leads_of_drawn_records(client: Client):
    drawn = client.sample("ecg", 2, kind=1, seed=0)
    twelve = client.infer("ecg.twelve", {"leads": np.asarray(drawn)})["twelve"]
    lead = dict(zip(ecg.TWELVE, twelve.swapaxes(0, 1), strict=True))
    assert np.array_equal(lead["III"], lead["II"] - lead["I"])
    assert ecg.told(torch.from_numpy(np.array(drawn)), torch.tensor([1, 1])) == 1
