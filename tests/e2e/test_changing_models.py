"""Models that change while the server serves: no request fails, and replicas that are lost come back as they were."""

import os
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import numpy_helper

from tests.e2e.conftest import REPLICAS, Server, until
from tests.e2e.test_server import refusal, replicas

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

SEEDS = 6


def drawn(client: triton.InferenceServerClient, seed: int) -> tuple[str, bytes]:
    """The version that answered, and its samples."""
    label = triton.InferInput("label", [1], "INT64")
    label.set_data_from_numpy(np.array([1], np.int64))
    result = client.infer("stripes", [label], parameters={"samples": 2, "steps": 8, "seed": seed}, client_timeout=60)
    return result.get_response().model_version, result.as_numpy("samples").tobytes()


class Asking:
    """Threads that ask all the time, until the end of the block."""

    def __init__(self, server: Server, threads: int = 4) -> None:
        self.answers: list[tuple[int, str, bytes]] = []
        self.failures: list[Exception] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(server, k)) for k in range(threads)]

    def __enter__(self) -> "Asking":
        for each in self._threads:
            each.start()
        until(lambda: len(self.answers) > 10 or self.failures, 60, "answers")
        return self

    def __exit__(self, *_: object) -> None:
        count = len(self.answers)
        until(lambda: len(self.answers) > count + 10 or self.failures, 60, "answers")
        self._stop.set()
        for each in self._threads:
            each.join(60)

    def _ask(self, server: Server, number: int) -> None:
        rng = random.Random(number)
        with triton.InferenceServerClient(server.grpc) as client:
            while not self._stop.is_set():
                seed = rng.randrange(SEEDS)
                try:
                    self.answers.append((seed, *drawn(client, seed)))
                except Exception as error:
                    self.failures.append(error)


def write_version(folder: Path, version: str) -> None:
    """Version 1 with other weights, moved into the repository at once."""
    made = folder / f".{version}"
    shutil.copytree(folder / "1", made)
    model = onnx.load(made / "model.onnx")
    weight = next(each for each in model.graph.initializer if len(each.dims) > 1)
    weight.CopyFrom(numpy_helper.from_array(1.5 * numpy_helper.to_array(weight), weight.name))
    onnx.save(model, made / "model.onnx")
    made.rename(folder / version)


@pytest.fixture
def client(server: Server, client: triton.InferenceServerClient) -> Iterator[triton.InferenceServerClient]:
    """The client; the models are as they were when the test is over."""
    yield client
    shutil.rmtree(server.root / "stripes" / "2", ignore_errors=True)
    for name in ("stripes", "nan"):
        client.load_model(name)


def states(client: triton.InferenceServerClient, *names: str) -> dict[str, tuple[str, str, str]]:
    """Version, state and reason of some models, which have one version each."""
    listed = [each for each in client.get_model_repository_index().models if each.name in names]
    return {each.name: (each.version, each.state, each.reason) for each in listed}


def test_a_version_changes_under_load_and_a_lost_replica_comes_back_with_it(
    server: Server, client: triton.InferenceServerClient
):
    before = [each.fingerprints["stripes"] for each in replicas(server)]
    old = [drawn(client, seed)[1] for seed in range(SEEDS)]
    with Asking(server) as asking:
        write_version(server.root / "stripes", "2")
        client.load_model("stripes")
        after = [drawn(client, seed) for seed in range(SEEDS)]
        client.unload_model("nan")
        victim = replicas(server)[0].pid
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in {each.pid for each in replicas(server)}, 20, "a lost replica")

        def whole() -> bool:
            found = replicas(server)
            return len(found) == REPLICAS and all(each.fingerprints.get("stripes") for each in found)

        until(whole, 120, "its successor")
    assert not asking.failures, asking.failures[0]
    assert {version for version, _ in after} == {"2"}
    new = [samples for _, samples in after]
    assert all(one != other for one, other in zip(old, new, strict=True))
    assert {version for _, version, _ in asking.answers} == {"1", "2"}
    for seed, version, samples in asking.answers:
        assert samples == (old if version == "1" else new)[seed]

    until(lambda: states(client, "stripes")["stripes"] == ("2", "READY", ""), 20, "version 2 on both replicas")
    assert states(client, "nan") == {"nan": ("1", "UNAVAILABLE", "unloaded")}
    assert refusal(partial(client.infer, "nan", [])) == ("UNAVAILABLE", "model 'nan' is unavailable: unloaded")
    assert {each.fingerprints["stripes"] for each in replicas(server)}.isdisjoint(before)

    client.unload_model("stripes")
    raw = ("2", "UNAVAILABLE", "unloaded")
    assert states(client, "stripes", "stripes.network") == {"stripes": raw, "stripes.network": raw}
    shutil.rmtree(server.root / "stripes" / "2")
    client.load_model("stripes")
    assert [drawn(client, seed) for seed in range(SEEDS)] == [("1", samples) for samples in old]
    assert [each.fingerprints["stripes"] for each in replicas(server)] == before
