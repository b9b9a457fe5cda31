"""The model repository over the wire: NVIDIA's client before a real front and real replicas."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from serving.fleet.directory import ModelState, ReplicaState
from serving.front.router import Index
from serving.front.summary import Summary, summaries
from tests.serving.live import Live, running


def index(client: triton.InferenceServerClient) -> dict[tuple[str, str], tuple[str, str]]:
    """State and reason by name and version."""
    listed = client.get_model_repository_index().models
    found = {(each.name, each.version): (each.state, each.reason) for each in listed}
    assert len(found) == len(listed)
    return found


def refusal(call: object, *arguments: object, **named: object) -> tuple[str, str]:
    """The status and the text of a call that must fail."""
    assert callable(call)
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **named)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


@pytest.fixture(scope="module")
def closed(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that lets nobody load or unload; one of its models is torn."""
    root = tmp_path_factory.mktemp("closed") / "models"
    shutil.copytree(small_models, root)
    graph = root / "nan" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:100])
    with running(root) as live:
        yield live


def test_the_index_lists_every_model_with_its_state(closed: Live):
    with triton.InferenceServerClient(closed.address) as client:
        found = index(client)
        assert [name for name, _ in found] == [
            "nan",
            "nearness",
            "rings",
            "rings.network",
            "stripes",
            "stripes.network",
        ]
        assert found.pop(("nan", "1"))[0] == "UNAVAILABLE"
        assert set(found.values()) == {("READY", "")}
        reply = client._client_stub.RepositoryIndex(triton.service_pb2.RepositoryIndexRequest(ready=True))
        assert [each.name for each in reply.models] == [
            "nearness",
            "rings",
            "rings.network",
            "stripes",
            "stripes.network",
        ]
        assert "model_repository" in client.get_server_metadata().extensions


def test_there_is_one_repository(closed: Live):
    with triton.InferenceServerClient(closed.address) as client:
        request = triton.service_pb2.RepositoryIndexRequest(repository_name="other")
        with pytest.raises(Exception, match="repository_name: expected none, there is one repository, got 'other'"):
            client._client_stub.RepositoryIndex(request)


def test_loading_is_refused_unless_it_is_allowed(closed: Live):
    with triton.InferenceServerClient(closed.address) as client:
        for call in (client.load_model, client.unload_model):
            for name in ("rings", "no such model", "../rings", ""):
                status, text = refusal(call, name)
                assert status == "PERMISSION_DENIED"
                assert "--allow-model-control" in text


def state(version: str, state: str, reason: str = "") -> ModelState:
    return ModelState("digits", version, "sampler", state, reason)  # type: ignore[arg-type]


def replica(name: str, *models: ModelState, draining: bool = False) -> ReplicaState:
    return ReplicaState(name, "127.0.0.1:1", 1, models, draining=draining)


def summed(*replicas: ReplicaState) -> list[tuple[str, str, str, int]]:
    found: list[Summary] = summaries(Index.of(replicas), "digits")
    return [(each.version, each.state, each.reason, each.ready) for each in found]


def test_states_are_summed_over_replicas():
    one, two = state("9", "READY"), state("10", "LOADING")
    assert summed(replica("a", one), replica("b", one)) == [("9", "READY", "", 2)]
    assert summed(replica("a", one, two), replica("b", one)) == [
        ("9", "READY", "", 2),
        ("10", "LOADING", "LOADING on 1 of 2 replicas; not loaded on 1 of 2 replicas", 0),
    ]
    torn = state("9", "UNAVAILABLE", "torn")
    assert summed(replica("a", torn), replica("b", torn)) == [("9", "UNAVAILABLE", "torn", 0)]
    assert summed(replica("a", one), replica("b", torn)) == [
        ("9", "READY", "READY on 1 of 2 replicas; UNAVAILABLE on 1 of 2 replicas: torn", 1)
    ]
    assert summed(replica("a", one, draining=True)) == [("9", "UNAVAILABLE", "its replica is stopping", 0)]
    assert summed(replica("a", one, draining=True), replica("b", two)) == [
        ("9", "UNAVAILABLE", "its replica is stopping", 0),
        ("10", "LOADING", "", 0),
    ]
