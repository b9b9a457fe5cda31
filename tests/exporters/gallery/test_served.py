"""Models of the gallery over the wire: a real client, a real front and replica, and what is known of them."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporters.gallery import cfc, chromatograph, co2, ecg, equilibrium, kinetic, neurosonic, stations, vowels
from exporters.gallery.solving import Model
from tests.serving.live import running
from tiltserve import Client

SHIPPED = Path(__file__).resolve().parents[3] / "deploy" / "gallery_models"
MODELS = (
    "stations", "neurosonic-exact", "chromatograph", "ecg", "ecg.twelve", "saddle", "stable-geometric",
    "geometric-brownian", "ornstein-uhlenbeck", "cfc", "equilibrium", "co2", "two-velocities",
)  # fmt: skip


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


def test_a_saddle_s_exponents(client: Client):
    found = client.solve("saddle", [[1.0, 1.0], [-2.0, 0.3]], [0.0, 3.0], sensitivity="ftle", rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found.outputs["ftle"][:, -1], 1, atol=1e-6)


def test_a_stable_sde_keeps_its_signs_and_knows_speakers_by_its_decoder(client: Client):
    series = vowels.some_series(3)
    condition = {"series": series.values.numpy(), "times": series.times.numpy()}
    words: dict[str, Any] = {"frame": series.values[:, 0].numpy(), "seed": 4, **condition}
    found = client.solve("stable-geometric", None, [0.0, 0.5, 1.0], **words)
    y = np.asarray(found)
    assert np.array_equal(np.sign(y[:, 1:]), np.sign(y[:, :-1]))
    assert found.decoded is not None
    assert found.decoded.shape == (3, 3, vowels.SPEAKERS)


def test_geometric_noise_is_exact_on_any_grid(client: Client):
    words: dict[str, Any] = {"growth": 0.3, "volatility": 0.8, "seed": 1, "samples": 20}
    coarse, fine = (client.solve("geometric-brownian", [[-1.0]], [0.0, 1.0], dt=dt, **words) for dt in (0.25, 1 / 64))
    np.testing.assert_allclose(np.asarray(coarse), np.asarray(fine), rtol=1e-12)


def test_a_cell_steps_from_observation_to_observation(client: Client):
    series = vowels.some_series(2)
    at = series.times.double().numpy() * (vowels.FRAMES - 1)
    new = np.diff(at, axis=1, prepend=-1) > 0
    found = client.solve(
        "cfc", np.zeros((2, cfc.STATE)), at, control=series.values.double().numpy(), control_t=np.where(new, at, np.nan)
    )
    by_hand = cfc.states(Model(SHIPPED, "cfc"), series)[:, -1]
    np.testing.assert_allclose(np.asarray(found)[:, -1], by_hand.numpy(), atol=1e-5)


def test_an_equilibrium_solves_its_linear_system(client: Client):
    network, x = equilibrium.contraction(), np.linspace(-1, 1, equilibrium.GIVEN)[None]
    found = client.solve("equilibrium", np.zeros((1, equilibrium.STATE)), x=x, rtol=1e-10, atol=1e-12)
    exact = np.linalg.solve(np.eye(equilibrium.STATE) - network.a.numpy(), network.b.numpy() @ x[0])
    np.testing.assert_allclose(np.asarray(found)[0, -1], exact, atol=1e-7)
    assert found.outputs["residual"][0] < 1e-8


def test_an_emulator_keeps_the_mass(client: Client):
    generator = torch.Generator().manual_seed(0)
    m, (u, v) = co2.air(2, generator).numpy(), map(torch.Tensor.numpy, co2.winds(2, generator))
    found = np.asarray(client.solve("co2", m, [0.0, 100.0], u=u, v=v), np.float64)
    np.testing.assert_allclose(found[:, -1].sum((1, 2)), m.sum((1, 2), dtype=np.float64), rtol=1e-6)  # sent as float32


def test_collisions_are_not_resolved_by_the_card_s_solver(client: Client):
    cosine, sine, k = kinetic.waves()
    y0 = torch.stack([1 + 0.5 * cosine, 0.5 * k * sine])[None].numpy()
    found = client.solve("two-velocities", y0, [0.0, 0.05], eps=1e-4)
    limit = 1 + 0.5 * math.exp(-k * k * 0.05) * cosine.numpy()
    np.testing.assert_allclose(np.asarray(found)[0, -1, 0], limit, atol=1e-5)
    assert found.evaluations[0] < 1000


def test_a_steered_sde_knows_how_rare_its_event_is(client: Client):
    """One plain path in 767 ends at 1 or above: of 64 steered ones nearly all, and the probability comes with them."""
    words: dict[str, Any] = {"rate": 1.0, "mean": 0.0, "spread": 0.5, "reward": "linear", "reward_direction": [1.0]}
    found = client.solve("ornstein-uhlenbeck", [[0.0]], [0.0, 1.0], threshold=1.0, samples=64, seed=9, **words)
    shrink = 1 - 1 / 32  # of a step, and of the chain of 32 steps
    deviation = 0.5 * math.sqrt((1 - shrink**64) / (1 - shrink**2) / 32)
    exact = math.erfc(1 / deviation / math.sqrt(2)) / 2
    assert (np.asarray(found)[:, -1, 0] >= 1).mean() > 0.9
    assert float(found.parameters["probability"]) == pytest.approx(exact, rel=0.35)
