"""Model folders: what is wrong with one is said in one line, and the others are served."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from protos.card import load_card
from serving.backends import LoadError
from serving.backends.ort import OrtNetwork
from serving.engine.engine import Engine
from serving.engine.metrics import ReplicaMetrics
from serving.models.folders import scan
from serving.models.loaded import LoadedModels
from serving.models.model import PlainModel, Sampler
from serving.models.repository import load
from serving.requests.job import task_for
from serving.wire.errors import RequestError
from serving.wire.kserve import InferRequest
from steering.posteriors import Gaussian, Mixture, Neighbours
from tests import networks

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
XT: dict[str, tuple[int, list[str | int]]] = {"x": (FLOAT, ["n", 2]), "t": (FLOAT, ["n"])}


@pytest.fixture
def root(small_models: Path, tmp_path: Path) -> Path:
    """A repository of one's own: `rings` and `nearness`."""
    for name in ("rings", "nearness"):
        shutil.copytree(small_models / name, tmp_path / "models" / name)
    return tmp_path / "models"


def refusal(root: Path, name: str) -> str:
    """The one line that is said of a model, which names its folder; the other models of the repository load."""
    shelf = LoadedModels(root, 1)
    asyncio.run(shelf.load_all())
    states = {state.name: state for state in shelf.states()}
    assert states[name].state == "UNAVAILABLE"
    assert name not in shelf.models
    for other in {"rings", "rings.network", "nearness"} - {name, f"{name}.network"}:
        assert states[other].state == "READY", states[other]
    reason = states[name].reason
    assert "\n" not in reason
    assert str(root / name) in reason
    return reason.removeprefix(str(root / name)).removeprefix("/")


def add_scale(root: Path, inputs, output, /, **card: object) -> None:
    """A model `extra` with a card; the graph and the card need not fit."""
    networks.write_scale(root / "extra", inputs, output)
    card = {
        "format": 1, "name": "extra", "path": {"kind": "rectified_flow"}, "prediction": "x0", "event_shape": [2]
    } | card  # fmt: skip
    (root / "extra" / "card.yaml").write_text("{}")
    networks.edit_card(root / "extra", **card)


def test_whole_models_load(small_models: Path):
    shelf = LoadedModels(small_models, 1)
    assert {state.state for state in shelf.states()} == {"LOADING"}
    asyncio.run(shelf.load_all())
    states = {state.name: state for state in shelf.states()}
    assert {name: (state.kind, state.state) for name, state in states.items()} == {
        "rings": ("sampler", "READY"),
        "rings.network": ("network", "READY"),
        "stripes": ("sampler", "READY"),
        "stripes.network": ("network", "READY"),
        "nearness": ("network", "READY"),
        "nan": ("network", "READY"),
    }
    rings = shelf.models["rings"]
    assert isinstance(rings, Sampler)
    assert rings.known.cloud is not None
    assert rings.known.cloud.samples.shape == (512, 2)
    assert rings.known.calibration is not None
    taken = {each.name: (each.datatype, each.shape) for each in states["stripes"].inputs}
    assert taken["x_init"] == ("FP32", (-1, 1, 4, 4))
    assert taken["label"] == ("INT64", (-1,))
    assert [(each.name, each.datatype, each.shape) for each in states["rings.network"].inputs] == [
        ("x", "FP32", (-1, 2)),
        ("t", "FP32", (-1, 1)),
    ]
    again = LoadedModels(small_models, 1)
    asyncio.run(again.load_all())
    assert {s.name: s.fingerprint for s in again.states()} == {s.name: s.fingerprint for s in shelf.states()}


def test_the_local_posterior_is_the_one_that_fits_the_bank_unless_the_card_names_one(root: Path):
    def rings() -> Sampler:
        shelf = LoadedModels(root, 1)
        asyncio.run(shelf.load_all())
        model = shelf.models["rings"]
        assert isinstance(model, Sampler)
        return model

    chosen, again = rings(), rings()
    (folder,) = [each for each in scan(root) if each.name == "rings"]
    bare = load(folder, lambda file: OrtNetwork(file, 1))
    assert isinstance(bare, Sampler)
    assert isinstance(chosen.known.local(None), Mixture)  # rings are one
    assert isinstance(chosen.known.local("gaussian"), Gaussian)
    assert isinstance(bare.known.local(None), Gaussian)
    assert chosen.known.fingerprint == again.known.fingerprint != bare.known.fingerprint
    networks.edit_card(root / "rings", posterior="neighbours")
    named = rings().known
    assert isinstance(named.local(None), Neighbours)
    assert isinstance(named.local("mixture"), Mixture)
    with np.load(root / "rings" / "1" / "bank.npz") as archive:
        x = archive["x"]
    bank(x=x[:15])(root)  # too few for a mixture
    networks.edit_card(root / "rings", posterior=None)
    few = rings().known
    assert few.choice is not None
    assert few.choice.why == "local posterior gaussian: 15 samples are too few for a mixture"
    assert isinstance(few.local(None), Gaussian)


def test_a_bank_that_no_posterior_can_be_chosen_for_is_still_served(root: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError("no fit")

    monkeypatch.setattr("serving.models.model.Chosen.of", fail)
    shelf = LoadedModels(root, 1)
    asyncio.run(shelf.load_all())
    engine = Engine(ReplicaMetrics())
    request = InferRequest("rings", parameters={"samples": 2, "seed": 1, "reward": "nearness", "reward_mode": 2})
    answer = engine.submit(task_for(request, shelf.models["rings"], shelf.models)).result(60)
    engine.stop()
    assert "its local posterior was not chosen yet; gaussian was used" in answer.parameters["warnings"]


@pytest.mark.parametrize(
    ("inputs", "output", "card", "expected"),
    [
        (XT, ("output", ["n", 2]), {"inputs": {"x": "noisy"}}, "the card names input 'noisy', the graph has x, t"),
        (XT, ("output", ["n", 2]), {"inputs": {"t": "time"}}, "the card names input 'time', the graph has x, t"),
        (XT, ("output", ["n", 2]), {"output": "eps"}, "the card names output 'eps', the graph has output"),
        (
            XT, ("output", ["n", 2]), {"event_shape": [3]},
            "input 'x': the card says float32 [3], the graph float32 [2]",
        ),
        (
            XT, ("output", ["n", 2]), {"event_shape": [1, 2]},
            "input 'x': the card says float32 [1, 2], the graph float32 [2]",
        ),
        (
            {"x": (INT64, ["n", 2]), "t": (FLOAT, ["n"])}, ("output", ["n", 2]), {},
            "input 'x': the card says float32 [2], the graph int64 [2]",
        ),
        (
            {"x": (FLOAT, ["n", 2]), "t": (FLOAT, ["n", 2])}, ("output", ["n", 2]), {},
            "input 't': the card says float32 [], the graph float32 [2]",
        ),
        (
            XT | {"label": (INT64, ["n"])}, ("output", ["n", 2]), {},
            "the graph has input 'label', the card names x, t",
        ),
        (
            XT, ("output", ["n", 2]), {"conditions": {"label": {"dtype": "int64"}}},
            "the card names input 'label', the graph has x, t",
        ),
        (
            XT | {"label": (FLOAT, ["n"])}, ("output", ["n", 2]), {"conditions": {"label": {"dtype": "int64"}}},
            "input 'label': the card says int64 [], the graph float32 []",
        ),
        (
            XT | {"words": (INT64, ["n", 77])}, ("output", ["n", 2]),
            {"conditions": {"words": {"dtype": "int64", "shape": [-1]}}},
            "input 'words': the card says int64 [-1], the graph int64 [77]",
        ),
        (
            XT | {"words": (INT64, ["n", 77])}, ("output", ["n", 2]),
            {"conditions": {"words": {"dtype": "int64", "shape": [-1], "longest": 70, "pad": 0}}},
            "input 'words': the card says int64 [70], the graph int64 [77]",
        ),
        (
            XT | {"words": (INT64, ["n", "length"])}, ("output", ["n", 2]),
            {"conditions": {"words": {"dtype": "int64", "shape": [-1], "pad": 0, "mask": "there"}}},
            "the card names input 'there', the graph has x, t, words",
        ),
        (
            XT | {"words": (INT64, ["n", "length"])}, ("output", ["n", 2]),
            {"conditions": {"words": {"dtype": "int64", "shape": [-1], "pad": 0, "mask": "t"}}},
            "mask: expected an input of its own, got 't', which is another's",
        ),
        (
            XT | {"word": (TensorProto.INT8, ["n"])}, ("output", ["n", 2]),
            {"conditions": {"word": {"dtype": "int64", "null": 1000}}},
            "conditions.word.null: expected -128..127, as the graph's int8 holds, got 1000",
        ),
        (
            {"x": (FLOAT, ["n", "d"]), "t": (FLOAT, ["n"])}, ("output", ["n", "d"]), {"event_shape": [2, 2]},
            "input 'x': the card says float32 [2, 2], the graph float32 [?]",
        ),
        (
            XT, ("output", ["n", 2]), {"path": {"kind": "vp_cosin"}},
            "unknown path 'vp_cosin': expected one of edm, kinetic_optimal, mean_reverting",
        ),
        (
            XT, ("output", ["n", 2]), {"inputs": {"time": "N*t-1"}},
            "time input 'N*t-1': expected a path of N steps (vp_discrete, vp_betas), got",
        ),
        (
            XT, ("output", ["n", 2]), {"inputs": {"time": "T"}},
            "time input 'T': expected a formula of t, alpha, sigma, rho, log_snr, N, numbers, + - * / and log, exp, sq",
        ),
        (
            XT, ("output", ["n", 2]), {"inputs": {"time": "sqrt(t-2)"}},
            "time input 'sqrt(t-2)': expected a finite number at t=0.5, got nan",
        ),
        (
            XT, ("output", ["n", 2]), {"learned_variance": True},
            "output 'output': the card says float32 [2] with one axis twice as long (learned_variance), the",
        ),
        (
            {"x": (FLOAT, ["n", 2]), "t": (INT64, ["n"])}, ("output", ["n", 2]), {"inputs": {"time": "1-t"}},
            "input 't': the card says float32 [], the graph int64 []",
        ),
        (
            XT, ("output", ["n", 2]), {"path": {"kind": "vp_betas", "zero_terminal_snr": 1}},
            "path 'vp_betas': zero_terminal_snr: expected true or false, got 1",
        ),
        (
            XT, ("output", ["n", 2]), {"path": {"kind": "mean_reverting"}, "clip": 1},
            "clip, dynamic_threshold: expected a path that reverts to no mean, got mean_reverting",
        ),
        (
            {"x": (FLOAT, ["n", 2]), "t": (TensorProto.UINT8, ["n"])}, ("output", ["n", 2]),
            {"inputs": {"time": "N*t-1"}, "path": {"kind": "vp_betas"}},
            "input 't': expected times of 0..255, as the graph's uint8 holds, got 999 at t=1",
        ),
        (
            {"x": (FLOAT, ["n", 2]), "t": (TensorProto.FLOAT16, ["n"])}, ("output", ["n", 2]),
            {"inputs": {"time": "1000*sigma"}, "path": {"kind": "edm"}},
            "input 't': expected times of -65504..65504, as the graph's float16 holds, got 80000 at t=80",
        ),
        (
            XT, ("output", ["n", 2]), {"path": {"kind": "edm", "sigma": 80}},
            "path 'edm': unknown argument 'sigma', expected some of sigma_min, sigma_max",
        ),
        (
            XT, ("output", ["n", 2]), {"path": {"kind": "edm", "sigma_min": 9, "sigma_max": 1}},
            "expected 0 < sigma_min < sigma_max, got sigma_min=9, sigma_max=1",
        ),
        (XT, ("output", ["n", 2]), {"name": "other"}, "name: expected 'extra', its folder's name, got 'other'"),
        (
            XT, ("output", ["n", 2]), {"prediction": "x1"},
            "prediction: expected 'eps', 'x0', 'v', 'velocity' or 'score', got 'x1'",
        ),
        (XT, ("output", ["n", 2]), {"predicton": "x0"}, "unknown key 'predicton', did you mean 'prediction'?"),
        (
            XT | {"label": (INT64, ["n", 2])}, ("output", ["n", 2]),
            {"conditions": {"label": {"dtype": "int64", "shape": [2], "null": [1, 2, 3]}}},
            "conditions.label: null: expected shape [2], got [1, 2, 3]",
        ),
        (
            XT | {"label": (INT64, ["n"])}, ("output", ["n", 2]),
            {"conditions": {"label": {"dtype": "int64", "null": 0.5}}},
            "conditions.label: null: expected whole numbers for int64, got 0.5",
        ),
        (XT, ("output", ["n", 2]), {"t_range": [0.9, 0.1]}, "t_range: expected [low, high] with 0 <= low < high"),
    ],
)  # fmt: skip
def test_a_card_that_does_not_fit_its_graph(root: Path, inputs, output, card, expected: str):
    add_scale(root, inputs, output, **card)
    assert refusal(root, "extra").startswith(f"card.yaml: {expected}")


def test_an_output_of_another_shape(root: Path):
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["t", "axis"], ["column"]),
            helper.make_node("Add", ["x", "column"], ["sum"]),
            helper.make_node("ReduceSum", ["sum", "axis"], ["output"], keepdims=1),
        ],
        "sum",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in XT.items()],
        [helper.make_tensor_value_info("output", FLOAT, ["n", 1])],
        [helper.make_tensor("axis", INT64, [1], [1])],
    )
    networks.write_graph(root / "extra", graph)
    shutil.copy(root / "rings" / "card.yaml", root / "extra" / "card.yaml")
    networks.edit_card(root / "extra", name="extra", output="output")
    assert refusal(root, "extra") == "card.yaml: output 'output': the card says float32 [2], the graph float32 [1]"


def truncate(root: Path) -> None:
    file = root / "rings" / "1" / "model.onnx"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(root: Path) -> None:
    (root / "rings" / "1" / "model.onnx").write_bytes(b"")


def no_onnx(root: Path) -> None:
    (root / "rings" / "1" / "model.onnx").write_text("not a graph")


def missing(root: Path) -> None:
    (root / "rings" / "1" / "model.onnx").unlink()


def other_weights(root: Path) -> None:
    file = root / "rings" / "1" / "model.onnx"
    model = onnx.load(file)
    model.doc_string = "changed"
    onnx.save(model, file)


def bank(**arrays: np.ndarray) -> Callable[[Path], None]:
    return lambda root: np.savez(root / "rings" / "1" / "bank.npz", allow_pickle=False, **arrays)


def no_bank(root: Path) -> None:
    (root / "rings" / "1" / "bank.npz").write_bytes(b"PK\x03\x04 cut short")


def card_text(text: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / "rings" / "card.yaml").write_text(text)

    return write


@pytest.mark.parametrize(
    ("breaking", "expected"),
    [
        (truncate, "1/model.onnx: expected a complete ONNX graph, got: "),
        (empty, "1/model.onnx: expected a complete ONNX graph, got: "),
        (no_onnx, "1/model.onnx: expected a complete ONNX graph, got: "),
        (missing, "1/model.onnx: expected an ONNX graph, got no such file"),
        (other_weights, "1/bank.npz: drawn from a graph with sha256 "),
        (bank(x=np.zeros((9, 3), np.float32)), "1/bank.npz: x: expected [K, 2] with K >= 2, got [9, 3]"),
        (bank(x=np.zeros((1, 2), np.float32)), "1/bank.npz: x: expected [K, 2] with K >= 2, got [1, 2]"),
        (bank(x=np.full((9, 2), np.nan, np.float32)), "1/bank.npz: x: expected finite samples, got NaN or infinity"),
        (bank(x=np.array(["a", "b"])), "1/bank.npz: expected a bank (x, model_sha256), got: "),
        (bank(samples=np.zeros((9, 2), np.float32)), "1/bank.npz: expected a bank (x, model_sha256), got: "),
        (no_bank, "1/bank.npz: expected a bank (x, model_sha256), got: "),
        (card_text("name: [rings"), "card.yaml: expected YAML, got "),
        (card_text(""), "card.yaml: expected keys and values, got None"),
        (card_text("name: rings\npath: {kind: edm}"), "card.yaml: prediction: expected one of "),
    ],
)
def test_a_broken_folder(root: Path, breaking: Callable[[Path], None], expected: str):
    breaking(root)
    assert refusal(root, "rings").startswith(expected)


def test_a_graph_with_a_fixed_batch(root: Path):
    networks.write_scale(root / "extra", {"x": (FLOAT, [4, 2])}, ("y", [4, 2]))
    assert refusal(root, "extra") == "1/model.onnx: x: expected a free first axis for the batch, got length 4"


def test_the_newest_version_is_loaded_and_other_folders_are_passed_over(root: Path):
    shutil.copytree(root / "nearness" / "1", root / "nearness" / "10")
    shutil.copytree(root / "nearness" / "1", root / "nearness" / "9")
    (root / "nearness" / "notes").mkdir()
    (root / "empty").mkdir()
    (root / ".hidden" / "1").mkdir(parents=True)
    (root / "README").write_text("")
    assert [(folder.name, folder.version) for folder in scan(root)] == [("nearness", "10"), ("rings", "1")]


def test_fingerprints_tell_graphs_cards_and_banks_apart(root: Path):
    def fingerprint() -> str:
        (folder,) = [each for each in scan(root) if each.name == "rings"]
        model = load(folder, lambda file: OrtNetwork(file, 1))
        assert isinstance(model, Sampler)
        return model.known.fingerprint

    seen = [fingerprint()]
    networks.edit_card(root / "rings", sigma_data=0.7)
    seen.append(fingerprint())
    bank(x=np.ones((9, 2), np.float32))(root)
    seen.append(fingerprint())
    (root / "rings" / "1" / "bank.npz").unlink()
    seen.append(fingerprint())
    networks.edit_card(root / "rings", calibration=None)
    seen.append(fingerprint())
    other_weights(root)
    seen.append(fingerprint())
    model = onnx.load(root / "rings" / "1" / "model.onnx")
    graph = root / "rings" / "1" / "model.onnx"
    onnx.save(model, graph, save_as_external_data=True, location="weights", size_threshold=64)
    seen.append(fingerprint())
    weights = root / "rings" / "1" / "weights"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    seen.append(fingerprint())
    assert len(set(seen)) == 8


def test_a_time_input_of_one_column_is_served(root: Path):
    """Many networks take times as [n, 1]."""
    graph = helper.make_graph(
        [helper.make_node("Sub", ["x", "t"], ["output"])],
        "column",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 2]), helper.make_tensor_value_info("t", FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("output", FLOAT, ["n", 2])],
    )
    networks.write_graph(root / "extra", graph)
    (root / "extra" / "card.yaml").write_text("{}")
    networks.edit_card(
        root / "extra", name="extra", path={"kind": "rectified_flow"}, prediction="velocity", event_shape=[2]
    )
    shelf = LoadedModels(root, 1)
    asyncio.run(shelf.load_all())
    engine = Engine(ReplicaMetrics())
    request = InferRequest("extra", parameters={"samples": 3, "seed": 1, "steps": 4})
    answer = engine.submit(task_for(request, shelf.models["extra"], shelf.models)).result(20)
    engine.stop()
    assert answer.outputs["samples"].shape == (3, 2)


def test_missing_banks_are_made_in_the_background_and_are_the_same_everywhere(root: Path):
    (root / "rings" / "1" / "bank.npz").unlink()
    networks.edit_card(root / "rings", calibration=None)
    fingerprints: list[str] = []
    for bucket in (32, 24):
        shelf, engine = LoadedModels(root, 1), Engine(ReplicaMetrics(), max_bucket=bucket)
        asyncio.run(shelf.load_all())
        rings = shelf.models["rings"]
        assert isinstance(rings, Sampler)
        before = rings.known.fingerprint
        request = InferRequest(
            "rings", parameters={"samples": 4, "seed": 1, "steps": 4, "reward": "nearness", "reward_mode": 2}
        )
        early = engine.submit(task_for(request, rings, shelf.models)).result(60)
        assert "has no bank yet" in early.parameters["warnings"]
        assert "is not calibrated" in early.parameters["warnings"]
        asyncio.run(shelf.prepare(engine))
        assert rings.known.fingerprint != before
        later = engine.submit(task_for(request, rings, shelf.models)).result(60)
        engine.stop()
        assert "no bank" not in later.parameters["warnings"]
        assert "calibrated" not in later.parameters["warnings"]
        assert rings.known.cloud is not None
        assert len(rings.known.cloud.samples) == 4096
        assert rings.known.choice is not None  # with the bank, not after it: one change of the fingerprint
        fingerprints.append(rings.known.fingerprint)
        distances = np.linalg.norm(rings.known.cloud.samples.numpy()[:, None] - networks.modes().numpy(), axis=2).min(
            axis=1
        )
        assert (distances < 1).mean() > 0.98
    assert fingerprints[0] == fingerprints[1]


def test_a_card_without_a_path_is_a_plain_network(root: Path):
    networks.write_scale(root / "extra", {"x": (FLOAT, ["n", 2])})
    (root / "extra" / "card.yaml").write_text("name: extra\n")
    assert not load_card(root / "extra" / "card.yaml").is_sampler
    (folder,) = [each for each in scan(root) if each.name == "extra"]
    assert isinstance(load(folder, lambda file: OrtNetwork(file, 1)), PlainModel)


def test_a_plain_networks_card_gives_ranges_of_its_inputs(root: Path):
    card = root / "nearness" / "card.yaml"
    (folder,) = [each for each in scan(root) if each.name == "nearness"]
    card.write_text("name: nearness\narguments: {mode: {min: 0, max: 7}}\n")
    model = load(folder, lambda file: OrtNetwork(file, 1))
    assert isinstance(model, PlainModel)
    assert model.out_of_range("mode", np.array([0, 7])) == model.out_of_range("x", np.array([-1.0])) == ""
    assert model.out_of_range("mode", np.array([3, 8])) == "expected 0..7, got 8"
    card.write_text("name: nearness\narguments: {mood: {min: 0}}\n")
    with pytest.raises(LoadError, match=r"arguments: expected inputs of the graph \(mode, x\), got 'mood'"):
        load(folder, lambda file: OrtNetwork(file, 1))


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_a_network_that_divides_whole_numbers_takes_none_that_would_end_the_process(
    tmp_path: Path, dtype: type[np.signedinteger[Any]]
):
    kind, least = helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), int(np.iinfo(dtype).min)
    names = [helper.make_tensor_value_info(name, kind, ["n"]) for name in ("a", "b", "y")]
    nodes = [
        helper.make_node("Sub", ["a", "one"], ["c"]),
        helper.make_node("Div", ["c", "b"], ["d"]),
        helper.make_node("Div", ["a", "b"], ["e"]),
        helper.make_node("Add", ["d", "e"], ["y"]),
    ]
    one = helper.make_tensor("one", kind, [1], [1])
    graph = helper.make_graph(nodes, "g", names[:2], names[2:], [one])
    networks.write_graph(tmp_path / "divides", graph)
    (folder,) = scan(tmp_path)
    model = load(folder, lambda file: OrtNetwork(file, 1))
    assert isinstance(model, PlainModel)

    def asked(a: int, b: int) -> InferRequest:
        return InferRequest("divides", inputs={"a": np.array([a], dtype), "b": np.array([b], dtype)})

    engine = Engine(ReplicaMetrics())
    for refused in (least, least + 1) if dtype is np.int64 else (least,):
        with pytest.raises(RequestError, match=f"'a': expected numbers that can be divided by -1 .*, got {refused}"):
            task_for(asked(refused, -1), model, {"divides": model})
    for a, b, quotients in ((least + 2, -1, 1 - 2 * (least + 2) + 2 * least), (9, least, 0), (7, -1, -13)):
        answer = engine.submit(task_for(asked(a, b), model, {"divides": model})).result(60)
        assert answer.outputs["y"].tolist() == [quotients]
    engine.stop()


def test_load_raises_one_class_for_all(root: Path):
    truncate(root)
    with pytest.raises(LoadError):
        load(next(each for each in scan(root) if each.name == "rings"), lambda file: OrtNetwork(file, 1))
