"""Networks on another server: tiltserve's own, the real Triton, and servers that are not well."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

import steering
from serving.backends import InputError, LoadError, UnavailableError
from serving.backends.opening import Opener
from serving.backends.ort import OrtNetwork
from serving.backends.triton import TritonNetwork
from serving.models.folders import scan
from serving.models.model import Sampler
from serving.models.offline import solve
from serving.models.repository import load
from tests.serving.backends.test_bound import output, rows
from tests.serving.live import Live, running
from tests.triton_binary import VARIABLE, TritonServer, found

BINARY = found()


@pytest.fixture(scope="module")
def live(small_models: Path) -> Iterator[Live]:
    with running(small_models) as live:
        yield live


@pytest.fixture(scope="module")
def server(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    if BINARY is None:
        pytest.skip(f"no Triton: set {VARIABLE} to the folder of `python -m tests.triton_binary FOLDER`")
    server = TritonServer(BINARY, small_models, ["rings", "stripes"], tmp_path_factory.mktemp("triton"))
    yield server
    server.stop()


def drawn(root: Path, opener: Opener) -> tuple[np.ndarray, str]:
    """Samples of the rings in `root`, and what computed them."""
    model = load(next(each for each in scan(root) if each.name == "rings"), opener)
    assert isinstance(model, Sampler)
    problem = steering.Problem(plan=model.plan("dpmpp_2m", 8), event=model.card.event_shape)
    samples = solve(steering.draw_bank(problem, 48), model).numpy()
    kind = model.network.backend.kind
    model.network.backend.close()
    return samples, kind


def local(small_models: Path, name: str) -> OrtNetwork:
    return OrtNetwork(small_models / name / "1" / "model.onnx", 1)


@pytest.fixture
def card_alone(small_models: Path, tmp_path: Path) -> Path:
    """The rings without their graph: a card and a bank."""
    folder = tmp_path / "rings"
    (folder / "1").mkdir(parents=True)
    for file in ("card.yaml", "1/bank.npz"):
        shutil.copy(small_models / "rings" / file, folder / file)
    return tmp_path


def test_a_network_of_another_tiltserve_is_the_same_network(live: Live, small_models: Path):
    network, here = TritonNetwork("stripes", live.address, "stripes.network"), local(small_models, "stripes")
    assert (network.inputs, network.outputs) == (here.inputs, here.outputs)
    assert network.kind.startswith("kserve tiltserve ")
    assert network.kind.endswith(" stripes.network 1")
    assert not network.invariant
    assert network.sizes(5) == (2, 3, 4, 5)
    for n in (1, 2, 7, 50):
        found, expected = (output(each, rows(n, seed=n)) for each in (network, here))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    network.close()


def test_a_card_is_enough_to_sample_from_it(live: Live, small_models: Path, card_alone: Path):
    here, _ = drawn(small_models, Opener())
    there, kind = drawn(card_alone, Opener(remote={"rings": f"{live.address}/rings.network"}))
    np.testing.assert_allclose(there, here, atol=1e-5)
    assert kind.startswith("kserve tiltserve ")


def test_what_it_refuses_is_the_inputs_fault(live: Live):
    network, feeds = TritonNetwork("stripes", live.address, "stripes.network"), rows(4, seed=1)
    with pytest.raises(InputError, match=r"^input 'label': expected 0\.\.4, got 99$"):
        network.run({**feeds, "label": np.full(4, 99)}, ["output"])
    nan = feeds["x"].copy()
    nan[1] = np.nan
    with pytest.raises(InputError, match=r"^input 'x': expected finite numbers, got NaN or infinity$"):
        network.run({**feeds, "x": nan}, ["output"])
    assert np.isfinite(network.run(feeds, ["output"])[0]).all()
    network.close()


def test_a_network_of_nan_answers_nan(live: Live):
    network = TritonNetwork("nan", live.address, "nan")
    (reward,) = network.run({"x": np.ones((3, 2), np.float32)}, ["reward"])
    assert reward.shape == (3,)
    assert np.isnan(reward).all()
    network.close()


def test_a_model_that_is_not_there(live: Live):
    with pytest.raises(LoadError) as caught:
        TritonNetwork("mine", live.address, "nothing", seconds=1)
    expected = "network 'mine': expected model 'nothing' on its server"
    assert str(caught.value).startswith(expected)
    assert live.address not in str(caught.value)


def test_a_server_that_leaves(small_models: Path):
    with running(small_models) as leaving:
        network = TritonNetwork("stripes", leaving.address, "stripes.network", seconds=5)
        network.run(rows(2, seed=1), ["output"])
    with pytest.raises(UnavailableError) as caught:
        network.run(rows(2, seed=1), ["output"])
    assert str(caught.value) == "network 'stripes': its server cannot be reached"
    network.close()


def test_a_server_that_says_nothing(live: Live):
    network = TritonNetwork("stripes", live.address, "stripes.network", seconds=0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(LoadError, match=r"^network 'mine': .* within 0\.5 s, the server cannot be reached$"):
            TritonNetwork("mine", address, "stripes", seconds=0.5)
        network._client.close()
        network._client = triton.InferenceServerClient(address)
        with pytest.raises(UnavailableError, match=r"expected an answer of its server within 0\.5 s, got none$"):
            network.run(rows(2, seed=1), ["output"])
    network.close()


def test_the_real_triton_runs_the_same_network(server: TritonServer, small_models: Path):
    network, here = TritonNetwork("stripes", server.address, "stripes"), local(small_models, "stripes")
    assert (network.inputs, network.outputs) == (here.inputs, here.outputs)
    assert network.kind.startswith("kserve triton 2.")
    assert network.kind.endswith(" stripes 1")
    for n in (1, 2, 7, 50):
        feeds = rows(n, seed=n)
        found, expected = (each.run(feeds, ["output"])[0] for each in (network, here))
        assert found.tobytes() == expected.tobytes()
    network.close()


def test_the_real_triton_serves_a_card(server: TritonServer, small_models: Path, card_alone: Path):
    here, _ = drawn(small_models, Opener())
    there, kind = drawn(card_alone, Opener(remote={"rings": server.address}))
    assert there.tobytes() == here.tobytes()
    assert kind.startswith("kserve triton ")


def test_the_real_triton_passes_nan(server: TritonServer, small_models: Path):
    network, feeds = TritonNetwork("stripes", server.address, "stripes"), rows(3, seed=2)
    feeds["x"][1] = np.nan
    (output,) = network.run(feeds, ["output"])
    assert np.isnan(output).any(axis=(1, 2, 3)).tolist() == [False, True, False]
    network.close()


def test_the_real_triton_lacks_a_model(server: TritonServer):
    with pytest.raises(LoadError, match=r"^network 'mine': expected model 'nothing' on its server"):
        TritonNetwork("mine", server.address, "nothing", seconds=1)


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} is not set")
def test_the_named_binary_is_there():
    assert BINARY is not None
    assert BINARY.is_file()
