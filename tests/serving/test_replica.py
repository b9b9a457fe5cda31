"""A replica asked at its own address, by an unmodified client."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.serving.live import Live, running


@pytest.fixture(scope="module")
def live(small_models: Path) -> Iterator[Live]:
    with running(small_models) as live:
        yield live


@pytest.fixture
def client(live: Live) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(live.replicas[0].state().address) as client:
        yield client


def seed_of(result: triton.InferResult) -> int:
    return int(result.get_response().parameters["seed"].int64_param)


def test_it_draws_a_seed_and_says_which(live: Live, client: triton.InferenceServerClient):
    first, other = (client.infer("rings", [], parameters={"samples": 3}) for _ in range(2))
    assert seed_of(first) != seed_of(other)
    again = client.infer("rings", [], parameters={"samples": 3, "seed": seed_of(first)})
    np.testing.assert_array_equal(first.as_numpy("samples"), again.as_numpy("samples"))
    outputs, _ = live.infer(samples=3, seed=seed_of(first))  # through the front
    np.testing.assert_array_equal(first.as_numpy("samples"), outputs["samples"])


def test_plain_networks_take_no_seed(client: triton.InferenceServerClient):
    tensors = [triton.InferInput(name, shape, "FP32") for name, shape in (("x", [1, 2]), ("t", [1]))]
    for each in tensors:
        each.set_data_from_numpy(np.full(each.shape(), 0.5, np.float32))
    assert client.infer("rings.network", tensors).get_response().outputs


def test_it_says_how_it_is_and_what_it_holds(client: triton.InferenceServerClient):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("rings")
    assert client.is_model_ready("rings", "1")
    assert not client.is_model_ready("rings", "7")
    assert not client.is_model_ready("dogs")
    metadata = client.get_model_metadata("rings")
    assert list(metadata.versions) == ["1"]
    assert {each.name for each in metadata.outputs} == {
        "samples",
        "rewards",
        "log_likelihood",
        "standard_error",
        "denoised",
        "states",
    }
    with pytest.raises(InferenceServerException, match="unknown model 'dogs'"):
        client.get_model_metadata("dogs")


def test_a_timeout_counts_there_too(client: triton.InferenceServerClient):
    with pytest.raises(InferenceServerException) as caught:
        client.infer("rings", [], parameters={"samples": 64, "steps": 1000}, timeout=1000)
    # refused at once where it is known that the time is too short
    assert caught.value.status() in ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.RESOURCE_EXHAUSTED")
