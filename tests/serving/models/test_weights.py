"""Weights in files of their own, in whatever folder, count like the graph: for answers' fingerprints, banks, memory."""

import asyncio
import gc
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from protos.digest import graph_sha256
from protos.programs import Fixed, Programs, Searched, Step, dump_programs
from serving.backends import LoadError
from serving.backends.ort import OrtNetwork
from serving.models.folders import scan
from serving.models.loaded import LoadedModels
from serving.models.model import PlainModel, Sampler
from serving.models.repository import load
from tests import networks
from tests.serving.live import running

LOCATIONS = ("gain.bin", "deep/er/gain.bin")
CHANGED = np.array([0.25, 0.25], np.float32).tobytes()


def opened(root: Path) -> Sampler:
    (folder,) = scan(root)
    model = load(folder, lambda file: OrtNetwork(file, 1))
    assert isinstance(model, Sampler)
    return model


def write_bank(graph: Path, **owner: str) -> None:
    x = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    arrays = {"x": x} | {key: np.array(value) for key, value in owner.items()}
    np.savez(graph.with_name("bank.npz"), allow_pickle=False, **arrays)


@pytest.mark.parametrize("location", LOCATIONS)
def test_other_weights_are_another_fingerprint(tmp_path: Path, location: str):
    weights = networks.write_gains(tmp_path / "gains", location)
    before = opened(tmp_path)
    again = opened(tmp_path)
    assert before.known.fingerprint == again.known.fingerprint
    (y,) = before.network.backend.run({"x": np.ones((2, 2), np.float32), "t": np.ones(2, np.float32)}, ["x0"])
    assert y.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    weights.write_bytes(CHANGED)
    after = opened(tmp_path)
    (y,) = after.network.backend.run({"x": np.ones((2, 2), np.float32), "t": np.ones(2, np.float32)}, ["x0"])
    assert y.tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert after.known.fingerprint != before.known.fingerprint
    (tmp_path / "gains" / "card.yaml").unlink()  # a plain network, such as a reward
    (folder,) = scan(tmp_path)
    plain = load(folder, lambda file: OrtNetwork(file, 1))
    weights.write_bytes(np.full(2, 0.5, np.float32).tobytes())
    other = load(folder, lambda file: OrtNetwork(file, 1))
    assert isinstance(plain, PlainModel)
    assert isinstance(other, PlainModel)
    assert plain.fingerprint != other.fingerprint


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_running_network_keeps_the_weights_it_was_opened_with(tmp_path: Path, location: str):
    """ONNX Runtime by itself maps the files: what is written there would change its answers."""
    weights = networks.write_gains(tmp_path / "gains", location)
    network = OrtNetwork(tmp_path / "gains" / "1" / "model.onnx", 1)
    feeds = {"x": np.ones((2, 2), np.float32), "t": np.ones(2, np.float32)}
    with weights.open("r+b") as stream:
        stream.write(CHANGED)
    assert network.run(feeds, ["x0"])[0].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    weights.write_bytes(b"")
    assert network.run(feeds, ["x0"])[0].tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_bank_of_other_weights_is_refused(tmp_path: Path, location: str):
    weights = networks.write_gains(tmp_path / "gains", location)
    graph = tmp_path / "gains" / "1" / "model.onnx"
    write_bank(graph, model_sha256=graph_sha256(graph))
    assert opened(tmp_path).known.cloud is not None
    weights.write_bytes(CHANGED)
    with pytest.raises(LoadError, match=r"bank\.npz: drawn from a graph with sha256 \w{12}, the graph beside it has "):
        opened(tmp_path)
    write_bank(graph, model_sha256=graph_sha256(graph))
    assert opened(tmp_path).known.cloud is not None


@pytest.mark.parametrize("location", LOCATIONS)
def test_programs_searched_with_other_weights_are_refused(tmp_path: Path, location: str):
    weights = networks.write_gains(tmp_path / "gains", location)
    graph = tmp_path / "gains" / "1" / "model.onnx"
    step = Step(target="data", order=1, variable="log_snr")
    fixed = Fixed(solver="ddim", grid="logsnr", error=1.0)
    searched = Searched(
        rows=1, seed=0, error=0.5, fixed=fixed, uniform=0.7, kendall=0.5, fractions=(0.0, 1.0), steps=(step,)
    )
    programs = Programs(model_sha256=graph_sha256(graph), programs=(searched,))
    dump_programs(programs, graph.with_name("searched.json"))
    assert [*opened(tmp_path).programs] == [1]
    weights.write_bytes(CHANGED)
    with pytest.raises(LoadError, match=r"searched\.json: searched for a graph with sha256 "):
        opened(tmp_path)


@pytest.mark.parametrize("location", LOCATIONS)
def test_memory_counts_each_file_once(tmp_path: Path, location: str):
    weights = networks.write_gains(tmp_path / "gains", location)
    write_bank(tmp_path / "gains" / "1" / "model.onnx")
    graph, bank = ((tmp_path / "gains" / "1" / name).stat().st_size for name in ("model.onnx", "bank.npz"))
    shelf = LoadedModels(tmp_path, 1)
    asyncio.run(shelf.load_all())
    assert shelf._file_bytes("gains/1") == graph + weights.stat().st_size + bank
    assert shelf._memory.loaded == {"gains/1": graph + 8 + 64 * 2 * 4}


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("gone.bin", "weights 'gone.bin': expected a file in the graph's folder, got no such file"),
        ("../../x.bin", "weights '../../x.bin': expected a path inside the graph's folder, got one that is not"),
        ("/etc/passwd", "weights '/etc/passwd': expected a path inside the graph's folder, got one that is not"),
        ("gain.bin", "weights 'gain.bin': expected 8 bytes at 0 for tensor 'gain', got others in a file of 4"),
    ],
)
def test_weights_that_are_not_there_are_one_line(tmp_path: Path, location: str, expected: str):
    weights = networks.write_gains(tmp_path / "gains", "gain.bin")
    weights.write_bytes(weights.read_bytes()[:4])
    graph = tmp_path / "gains" / "1" / "model.onnx"
    model = onnx.load(graph, load_external_data=False)
    next(each for each in model.graph.initializer if each.name == "gain").external_data[0].value = location
    graph.write_bytes(model.SerializeToString())
    shelf = LoadedModels(tmp_path, 1)
    asyncio.run(shelf.load_all())
    (state,) = (state for state in shelf.states() if state.name == "gains")
    assert (state.state, state.reason) == ("UNAVAILABLE", f"{graph}: {expected}")


def test_new_weights_are_noticed_when_a_model_comes_back(tmp_path: Path):
    """As a new graph is: the answers would be another model's, under the old fingerprint."""
    weights = networks.write_gains(tmp_path / "gains", "deep/gain.bin")
    networks.write_gains(tmp_path / "other", "gain.bin")
    for name in ("gains", "other"):
        write_bank(tmp_path / name / "1" / "model.onnx")
    graph = (tmp_path / "gains" / "1" / "model.onnx").stat().st_size
    with running(tmp_path, model_memory=graph + 1000) as live, triton.InferenceServerClient(live.address) as client:

        def ask(name: str) -> bytes:
            drawn = client.infer(name, [], parameters={"samples": 2, "seed": 1, "steps": 3}).as_numpy("samples")
            return bytes(drawn.tobytes())

        expected = ask("gains")
        assert ask("other") == expected
        assert [*live.replicas[0]._models._memory.loaded] == ["other/1"]
        weights.write_bytes(CHANGED)
        with pytest.raises(InferenceServerException, match="expected the files it was loaded from, got others"):
            ask("gains")
        weights.write_bytes(np.full(2, 0.5, np.float32).tobytes())
        assert ask("gains") == expected


def test_weights_of_other_files_live_as_long_as_their_session(tmp_path: Path):
    """The session computes on memory of Python's own: other arrays must not be put there."""
    table = np.arange(512, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "n"], ["row"]), helper.make_node("Add", ["row", "x"], ["y"])],
        "lookup",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b"]),
            helper.make_tensor_value_info("n", TensorProto.INT64, ["b"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b"])],
        [networks.elsewhere("table", table, "table.bin")],
    )
    file = tmp_path / "lookup.onnx"
    (tmp_path / "table.bin").write_bytes(table.tobytes())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    file.write_bytes(model.SerializeToString())
    backend = OrtNetwork(file, 1)
    gc.collect()
    litter = [np.full(512, np.nan, np.float32) for _ in range(200)]
    n = np.array([0, 3, 511])
    (y,) = backend.run({"x": np.zeros(3, np.float32), "n": n}, ("y",))
    np.testing.assert_array_equal(y, table[n])
    assert len(litter) == 200
