"""The model repository over the wire: NVIDIA's client before a real front and real replicas."""

import random
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from protos.tiltserve.v1 import repository_pb2, repository_pb2_grpc
from serving.fleet.directory import Directory, LocalDirectory, ModelState, ReplicaState, Wish
from serving.front.router import Index
from serving.front.summary import Summary, summaries
from serving.replica import Replica
from tests import networks
from tests.serving.live import Live, running, until

pb = triton.service_pb2
Client: TypeAlias = triton.InferenceServerClient


def index(client: Client) -> dict[tuple[str, str], tuple[str, str]]:
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
    with Client(closed.address) as client:
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
        reply = client._client_stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
        assert [each.name for each in reply.models] == [
            "nearness",
            "rings",
            "rings.network",
            "stripes",
            "stripes.network",
        ]
        assert "model_repository" not in client.get_server_metadata().extensions  # it may only be read


def test_there_is_one_repository(closed: Live):
    with Client(closed.address) as client:
        request = pb.RepositoryIndexRequest(repository_name="other")
        with pytest.raises(Exception, match="repository_name: expected none, there is one repository, got 'other'"):
            client._client_stub.RepositoryIndex(request)


def test_loading_is_refused_unless_it_is_allowed(closed: Live):
    with Client(closed.address) as client:
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


def write_version(root: Path, version: str, gain: float, *, bank: bool = True) -> None:
    """A version of the sampler `gains`, x0 = gain x: first beside the repository, then moved into it at once."""
    made = root.parent / f"made {version}" / "gains"
    shutil.rmtree(made.parent, ignore_errors=True)
    networks.write_gains(made, "gain.bin", gain)
    if bank:
        x = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
        np.savez(made / "1" / "bank.npz", allow_pickle=False, x=x)
    (root / "gains").mkdir(parents=True, exist_ok=True)
    if not (root / "gains" / "card.yaml").exists():
        shutil.copy(made / "card.yaml", root / "gains")
    shutil.rmtree(root / "gains" / version, ignore_errors=True)
    (made / "1").rename(root / "gains" / version)


def drawn(client: Client, seed: int, version: str = "", **parameters: Any) -> tuple[str, bytes]:
    """The version that answered, and its samples."""
    asked = {"samples": 3, "steps": 4, "seed": seed} | parameters
    result = client.infer("gains", [], model_version=version, parameters=asked, client_timeout=30)
    return result.get_response().model_version, result.as_numpy("samples").tobytes()


class Load:
    """Threads that ask all the time, and what they were answered."""

    def __init__(self, address: str, threads: int = 3, **parameters: Any) -> None:
        self.answers: list[tuple[int, str, bytes]] = []
        self.failures: list[Exception] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(address, k, parameters)) for k in range(threads)]

    def __enter__(self) -> "Load":
        for each in self._threads:
            each.start()
        until(lambda: len(self.answers) > 5 or self.failures)
        return self

    def __exit__(self, *_: object) -> None:
        count = len(self.answers)
        until(lambda: len(self.answers) > count + 5 or self.failures)
        self._stop.set()
        for each in self._threads:
            each.join(30)

    def _ask(self, address: str, number: int, parameters: Any) -> None:
        rng = random.Random(number)
        with Client(address) as client:
            while not self._stop.is_set():
                seed = rng.randrange(8)
                try:
                    self.answers.append((seed, *drawn(client, seed, **parameters)))
                except Exception as error:
                    self.failures.append(error)


@pytest.fixture(scope="module")
def root(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository: the sampler `gains` in version 1, and the reward `nearness`."""
    root = tmp_path_factory.mktemp("changing") / "models"
    shutil.copytree(small_models / "nearness", root / "nearness")
    write_version(root, "1", 0.5)
    return root


@pytest.fixture(scope="module")
def live(root: Path) -> Iterator[Live]:
    """A server of two replicas whose models clients may change."""
    with running(root, count=2, front={"allow_model_control": True}, allow_model_control=True) as live:
        yield live


@pytest.fixture(scope="module")
def anybody(live: Live) -> Iterator[Client]:
    with Client(live.address) as client:
        yield client


@pytest.fixture
def client(anybody: Client, root: Path) -> Client:
    """A client of the server, on which the repository is as it was at first."""
    for path in (root / "gains").iterdir():
        if path.name not in ("1", "card.yaml"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_version(root, "1", 0.5)
    anybody.load_model("gains")
    anybody.load_model("nearness")
    return anybody


def in_memory(replica: Replica) -> list[str]:
    """Versions that a replica holds, in order, without what tells those of one number apart."""
    return sorted(key.split(" ")[0] for key in replica._models._memory.loaded)


def everywhere(live: Live) -> Sequence[dict[tuple[str, str], str]]:
    """States by name and version of each replica."""
    return [{(each.name, each.version): each.state for each in one.state().models} for one in live.replicas]


def test_a_new_version_under_load(live: Live, client: Client, root: Path):
    """No request fails, and each has the bytes of one version, that which it names."""
    old = [drawn(client, seed)[1] for seed in range(8)]
    with Load(live.address) as load:
        write_version(root, "2", 0.25)
        client.load_model("gains")
        after = [drawn(client, seed) for seed in range(8)]
    new = [samples for _, samples in after]
    assert {version for version, _ in after} == {"2"}
    assert all(one != other for one, other in zip(old, new, strict=True))
    assert not load.failures, load.failures[0]
    assert {version for _, version, _ in load.answers} == {"1", "2"}
    for seed, version, samples in load.answers:
        assert samples == (old if version == "1" else new)[seed]
    until(lambda: index(client).keys() == {("gains", "2"), ("gains.network", "2"), ("nearness", "1")})
    assert {state for state, _ in index(client).values()} == {"READY"}
    assert refusal(drawn, client, 1, "1")[0] == "NOT_FOUND"
    until(lambda: all(in_memory(replica) == ["gains/2", "nearness/1"] for replica in live.replicas))


def test_new_files_of_the_same_version_under_load(live: Live, client: Client, root: Path):
    """The reward as well as the sampler: a steered request has those of one time throughout."""
    steered: dict[str, Any] = {"reward": "nearness", "reward_mode": 2, "particles": 4}
    old, fingerprint = (
        [drawn(client, seed, **steered)[1] for seed in range(8)],
        live.infer(model="gains")[1]["fingerprint"],
    )
    with Load(live.address, **steered) as load:
        write_version(root, "1", 0.25)
        client.load_model("gains")
        new = [drawn(client, seed, **steered)[1] for seed in range(8)]
    assert not load.failures, load.failures[0]
    assert {samples for _, _, samples in load.answers} <= {*old, *new}
    assert not {*old} & {*new}
    assert live.infer(model="gains")[1]["fingerprint"] != fingerprint
    assert [*index(client).values()] == [("READY", "")] * 3


def test_loading_what_has_not_changed_does_nothing(live: Live, client: Client, root: Path):
    before = [replica._models.models["gains"] for replica in live.replicas]
    client.load_model("gains")
    for file in (root / "gains" / "1").iterdir():
        file.write_bytes(file.read_bytes())  # written again, the same
    client.load_model("gains")
    client.load_model("nearness")
    assert [replica._models.models["gains"] for replica in live.replicas] == before
    assert in_memory(live.replicas[0]) == ["gains/1", "nearness/1"]
    assert [*index(client).values()] == [("READY", "")] * 3


def test_a_version_that_cannot_be_loaded_leaves_the_old_one(live: Live, client: Client, root: Path):
    old = drawn(client, 1)
    write_version(root, "2", 0.25)
    graph = root / "gains" / "2" / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:100])  # still being written
    status, text = refusal(client.load_model, "gains")
    assert status == "FAILED_PRECONDITION"
    assert text == f"{graph}: expected a complete ONNX graph, got: " + text.rpartition("got: ")[2]
    assert drawn(client, 1) == old
    found = index(client)
    assert found["gains", "1"] == ("READY", "")
    assert found["gains", "2"] == ("UNAVAILABLE", text)
    assert client.is_model_ready("gains")
    assert not client.is_model_ready("gains", "2")
    graph.write_bytes(whole)
    client.load_model("gains")
    assert drawn(client, 1)[0] == "2"
    graph.write_bytes(whole[:100])
    newest = drawn(client, 1)
    assert refusal(client.load_model, "gains")[0] == "FAILED_PRECONDITION"
    assert drawn(client, 1) == newest
    assert index(client)["gains", "2"] == (
        "READY", f"its files have changed since it was loaded, and cannot be loaded: {text}"
    )  # fmt: skip
    graph.write_bytes(whole)
    client.load_model("gains")
    assert index(client)["gains", "2"] == ("READY", "")


def test_several_versions_at_once(live: Live, client: Client, root: Path):
    one = drawn(client, 1)[1]
    write_version(root, "2", 0.25)
    write_version(root, "10", 0.75)
    (root / "gains" / "config.pbtxt").write_text("version_policy { all { } }")
    client.load_model("gains")
    found = {version: drawn(client, 1, version) for version in ("1", "2", "10")}
    assert [version for version, _ in found.values()] == ["1", "2", "10"]
    assert found["1"][1] == one
    assert len({samples for _, samples in found.values()}) == 3
    assert drawn(client, 1) == found["10"]
    assert client.get_model_metadata("gains", "2").versions == ["1", "2", "10"]
    assert all(client.is_model_ready("gains", version) for version in found)
    fingerprints = {each.fingerprint for each in live.replicas[0].state().models if each.name == "gains"}
    assert len(fingerprints) == 3
    (root / "gains" / "config.pbtxt").write_text("version_policy { specific { versions: [1, 2] } }")
    client.load_model("gains")
    assert drawn(client, 1) == found["2"]
    assert drawn(client, 1, "1") == found["1"]
    assert refusal(drawn, client, 1, "10") == ("NOT_FOUND", "model 'gains': unknown version '10', expected one of 1, 2")


def test_unloading_lets_running_requests_finish(live: Live, client: Client):
    expected = drawn(client, 1, steps=1000, samples=64)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(drawn, client, 1, steps=1000, samples=64) for _ in range(3)]
        until(lambda: sum(each._engine.backlog_rows for each in live.replicas) > 100_000)
        unloading = pool.submit(client.unload_model, "gains")
        until(
            lambda: all(set(each.values()) == {"UNLOADING", "READY"} for each in everywhere(live)) or unloading.done()
        )
        code, text = refusal(drawn, client, 1)
        assert code == "UNAVAILABLE"
        assert text.startswith("model 'gains' is un")
        unloading.result(60)
        assert not any(each._engine.backlog_rows for each in live.replicas)  # their answers may still be on their way
        assert [each.result() for each in running] == [expected] * 3
    for replica in live.replicas:
        assert in_memory(replica) == ["nearness/1"]
    assert live.metric("tiltserve_model_bytes", model="gains") == 0
    found = index(client)
    assert found["gains", "1"] == found["gains.network", "1"] == ("UNAVAILABLE", "unloaded")
    assert found["nearness", "1"] == ("READY", "")
    for name in ("gains", "gains.network"):
        assert not client.is_model_ready(name)
        status, text = refusal(client.infer, name, [])
        assert (status, text) == ("UNAVAILABLE", f"model '{name}' is unavailable: unloaded")
    client.unload_model("gains")
    client.load_model("gains")
    assert drawn(client, 1, steps=1000, samples=64) == expected


def test_a_reward_stays_for_requests_that_use_it(live: Live, client: Client):
    steered: dict[str, Any] = {"reward": "2 * nearness", "reward_mode": 2, "steps": 100, "samples": 16}
    expected = drawn(client, 1, **steered)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(drawn, client, 1, **steered)
        until(lambda: sum(each._engine.backlog_rows for each in live.replicas) > 0)
        client.unload_model("nearness")
        assert not any(each._engine.backlog_rows for each in live.replicas)  # the answer may still be on its way
        assert running.result() == expected
    status, text = refusal(drawn, client, 1, **steered)
    assert status == "INVALID_ARGUMENT"
    assert "nearness" in text
    client.load_model("nearness")
    assert drawn(client, 1, **steered) == expected


def test_replicas_that_start_later_come_to_the_same_state(live: Live, client: Client, root: Path):
    """Also where the directory was lost, which forgets everything: the replicas tell it again."""
    client.unload_model("nearness")
    client.unload_model("gains")
    client.load_model("gains")
    assert isinstance(live.front._directory, LocalDirectory)
    live.front._directory.directory = Directory()
    until(lambda: len(live.front._directory.directory.listing().replicas) == 2)  # type: ignore[attr-defined]
    later = Replica(root, live.front._directory, drain_s=0.5, allow_model_control=True)
    live.on_loop(later.start())
    live.replicas.append(later)
    expected = {("gains", "1"): "READY", ("gains.network", "1"): "READY", ("nearness", "1"): "UNAVAILABLE"}
    assert everywhere(live) == [expected] * 3
    until(lambda: len(live.front._roster.index.replicas) == 3)  # a front tells those that it knows
    client.load_model("nearness")
    client.unload_model("gains")
    swapped = {("gains", "1"): "UNAVAILABLE", ("gains.network", "1"): "UNAVAILABLE", ("nearness", "1"): "READY"}
    assert everywhere(live) == [swapped] * 3
    live.on_loop(live.replicas.pop().stop())


def test_a_replica_that_no_front_tells_hears_of_it_from_the_others(live: Live, client: Client):
    first = live.replicas[0]
    live.on_loop(first._control.change(Wish("nearness", False, time.time_ns())))
    until(lambda: all(each["nearness", "1"] == "UNAVAILABLE" for each in everywhere(live)))
    client.load_model("nearness")
    assert index(client)["nearness", "1"] == ("READY", "")


def test_a_client_that_gives_up_leaves_no_half_state(live: Live, client: Client, root: Path):
    write_version(root, "2", 0.25)
    call = client._client_stub.RepositoryModelLoad.future(pb.RepositoryModelLoadRequest(model_name="gains"))
    time.sleep(0.02)
    call.cancel()
    until(lambda: all(each.get(("gains", "2")) == "READY" for each in everywhere(live)), 30)
    client.unload_model("gains")
    assert all(each["gains", "2"] == "UNAVAILABLE" for each in everywhere(live))


def test_changes_that_meet_end_alike_everywhere(live: Live, client: Client, root: Path):
    rng = random.Random(0)

    def change(k: int) -> str:
        with Client(live.address) as mine:
            try:
                (mine.load_model if k % 2 else mine.unload_model)("gains")
            except InferenceServerException as error:
                return error.status()
        return "OK"

    with ThreadPoolExecutor(8) as pool:
        codes = set(pool.map(change, rng.sample(range(24), 24)))
    assert codes <= {"OK", "StatusCode.ABORTED"}
    assert live.replicas[0]._control.wishes == live.replicas[1]._control.wishes
    one, other = everywhere(live)
    assert one == other
    client.load_model("gains")
    assert {state for state, _ in index(client).values()} == {"READY"}


def test_a_new_model_and_one_that_is_gone(live: Live, client: Client, root: Path):
    shutil.copytree(root / "nearness", root / "again")
    assert refusal(client.infer, "again", [])[0] == "NOT_FOUND"
    write_version(root, "7", 0.25)
    unloaded = {("again", "1"): ("UNAVAILABLE", "not loaded"), ("gains", "7"): ("UNAVAILABLE", "not loaded")}
    until(lambda: unloaded.items() <= index(client).items())
    ready = client._client_stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models
    assert [each.name for each in ready] == ["gains", "gains.network", "nearness"]
    client.load_model("again")
    assert client.is_model_ready("again")
    shutil.rmtree(root / "again")
    status, text = refusal(client.load_model, "again")
    assert status == "NOT_FOUND"
    assert text.endswith("; what was loaded of it is served on")
    assert client.is_model_ready("again")
    client.unload_model("again")
    assert index(client)["again", "1"] == ("UNAVAILABLE", "unloaded")


@pytest.mark.parametrize(
    "name",
    [
        "dogs",
        "",
        ".",
        "..",
        "../models/gains",
        "gains/1",
        "gains/../gains",
        "/etc",
        "gains\0",
        "\0",
        ".hidden",
        "x" * 50_000,
        "g\u00e4ins",
    ],
)
def test_names_that_are_no_model(live: Live, anybody: Client, root: Path, name: str):
    (root / ".hidden").mkdir(exist_ok=True)
    before = [replica._control.wishes for replica in live.replicas]
    status, text = refusal(anybody.load_model, name)
    assert status == "NOT_FOUND"
    assert text.startswith("unknown model ")
    anybody.unload_model(name)  # as with Triton, nothing happens
    assert [replica._control.wishes for replica in live.replicas] == before


def test_parameters_that_are_not_taken(live: Live, client: Client):
    status, text = refusal(client.load_model, "gains", config='{"max_batch_size": 4}')
    assert status == "INVALID_ARGUMENT"
    assert text.startswith("parameter 'config': expected none, a model is what the files of its folder are")
    status, text = refusal(client.load_model, "gains", config="{}", files={"file:1/model.onnx": b"123"})
    assert status == "INVALID_ARGUMENT"
    load, unload = client._client_stub.RepositoryModelLoad, client._client_stub.RepositoryModelUnload
    values = {"bool_param": True, "int64_param": 1, "string_param": "a", "bytes_param": b"b"}
    parameters = [pb.ModelRepositoryParameter(), *(pb.ModelRepositoryParameter(**{k: v}) for k, v in values.items())]
    for value in parameters:
        for name in ("", "x", "unload_dependents", "config", "file:"):
            with pytest.raises(Exception, match=r"parameter '.*expected none"):
                load(pb.RepositoryModelLoadRequest(model_name="gains", parameters={name: value}))
        with pytest.raises(Exception, match="unknown parameter 'x', expected unload_dependents or none"):
            unload(pb.RepositoryModelUnloadRequest(model_name="gains", parameters={"x": value}))
        if not value.HasField("bool_param"):
            with pytest.raises(Exception, match="parameter 'unload_dependents': expected a bool, got "):
                unload(pb.RepositoryModelUnloadRequest(model_name="gains", parameters={"unload_dependents": value}))
    for request in (pb.RepositoryModelLoadRequest, pb.RepositoryModelUnloadRequest):
        call = load if request is pb.RepositoryModelLoadRequest else unload
        with pytest.raises(Exception, match="repository_name: expected none"):
            call(request(model_name="gains", repository_name="other"))
    assert client.is_model_ready("gains")
    assert "model_repository(unload_dependents)" in client.get_server_metadata().extensions
    client.unload_model("gains", unload_dependents=True)
    client.load_model("gains")


def test_a_raw_network_comes_and_goes_with_its_sampler(live: Live, client: Client):
    for call in (client.load_model, client.unload_model):
        assert refusal(call, "gains.network") == (
            "INVALID_ARGUMENT",
            "model 'gains.network': expected 'gains', whose raw network it is: it is loaded and unloaded with it",
        )
    assert refusal(client.load_model, "nearness.network")[0] == "NOT_FOUND"


def test_replicas_refuse_too_unless_it_is_allowed(closed: Live):
    """Who reaches a replica's own port can do no more there."""
    with grpc.insecure_channel(closed.replicas[0]._address) as channel:
        stub = repository_pb2_grpc.ReplicaRepositoryStub(channel)
        for call in (stub.LoadModel, stub.UnloadModel):
            with pytest.raises(grpc.RpcError) as caught:
                call(repository_pb2.ChangeModelRequest(name="rings", revision=2**62))
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_versions_in_little_memory(tmp_path: Path):
    """Each version counts for the bound; the old one leaves when the new one needs its room, and comes back."""
    root = tmp_path / "models"
    write_version(root, "1", 0.5)
    bound = sum(file.stat().st_size for file in (root / "gains" / "1").iterdir()) + 10
    with (
        running(root, model_memory=bound, front={"allow_model_control": True}, allow_model_control=True) as live,
        Client(live.address) as client,
    ):
        one = drawn(client, 1)
        write_version(root, "2", 0.25)
        (root / "gains" / "config.pbtxt").write_text("version_policy { all { } }")
        with Load(live.address, version="1") as load:
            client.load_model("gains")
        assert not load.failures, load.failures[0]
        assert drawn(client, 1, "1") == one
        assert drawn(client, 1)[0] == "2"
        assert live.replicas[0]._models._memory.total <= bound
        write_version(root, "2", 0.75)  # the same number, with the old files gone
        with Load(live.address) as load:
            client.load_model("gains")
        assert not load.failures, load.failures[0]
        assert drawn(client, 1)[0] == "2"
