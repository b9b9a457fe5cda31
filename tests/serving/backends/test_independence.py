"""Whether a row depends on that row alone is tried when a graph is loaded, and the node at fault is named."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from serving.backends import Array, Backend
from serving.backends.bound import BoundNetwork
from serving.backends.examination import Findings, find
from serving.backends.ort import OrtNetwork
from serving.backends.session import open_session
from serving.backends.torch import TorchNetwork
from tests import networks
from tests.serving.backends.graphs import COUNT, FINE, FLOAT, MIXING, PLACED, RANDOM, ZERO, Values, X, graph, node, plus

SCALES = np.array([1, 1, 2], np.float32)
ALONE = "output 'y': expected a row that depends on itself alone, got one that changes with "


def found(folder: Path, model: onnx.ModelProto, threads: int = 1) -> Findings:
    """What is found of a graph without a card."""
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    backend = OrtNetwork(file, threads)
    return find(file, backend, {}, [each.name for each in backend.outputs], 256)


@pytest.mark.parametrize("name", MIXING)
def test_rows_that_change_with_other_rows(tmp_path: Path, name: str):
    model, fault = MIXING[name]
    assert found(tmp_path, model).fault == f"{ALONE}the other rows of its call, from node {fault}"


@pytest.mark.parametrize("name", PLACED)
def test_rows_that_change_with_their_number_or_place(tmp_path: Path, name: str):
    model, fault = PLACED[name]
    text = found(tmp_path, model).fault
    assert text.startswith(f"{ALONE}its place in a call, or between calls of 5 and of ")
    assert text.endswith(f" rows, from node {fault}")


@pytest.mark.parametrize("name", RANDOM)
def test_noise(tmp_path: Path, name: str):
    model, fault = RANDOM[name]
    assert found(tmp_path, model).fault == f"expected equal answers to equal inputs, got noise from {fault}"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", FINE)
def test_what_only_looks_so(tmp_path: Path, name: str, threads: int):
    findings = found(tmp_path, FINE[name], threads)
    assert (findings.fault, findings.doubt) == ("", "")
    assert findings.made_up is not None


def test_more_rows_than_came(tmp_path: Path):
    twice = graph([node("Concat", ["x", "x"], ["y"], name="twice", axis=0)], X, (("y", FLOAT, ["m", 4]),))
    expected = (
        "output 'y': expected as many rows as the inputs have, got shape [6, 4] for 3 rows, from node Concat 'twice'"
    )
    assert found(tmp_path, twice).fault == expected


def test_a_number_of_rows_that_the_graph_was_written_for(tmp_path: Path):
    """Its inputs and outputs say any number."""
    four = np.array([-1, 4, 4], np.int64)
    groups = graph(
        [node("Reshape", ["x", "four"], ["r"]), node("Reshape", ["r", "rows"], ["y"])], four=four,
        rows=np.array([-1, 4], np.int64),
    )  # fmt: skip
    text = found(tmp_path, groups).fault
    assert text.startswith(
        "expected to run on any number of rows, got calls of 3 rows refused and of 4 rows accepted: "
    )


def test_a_graph_that_accepts_nothing_is_in_doubt(tmp_path: Path):
    """Such as one whose table has no row: it is served, as before, and every answer says so."""
    empty = np.zeros((0, 4), np.float32)
    model = graph([node("Gather", ["table", "label"], ["y"])], (("label", onnx.TensorProto.INT64, ["n"]),), table=empty)
    findings = found(tmp_path, model)
    assert findings.fault == ""
    assert findings.doubt.startswith("whether its rows are independent could not be tried: ")


@pytest.mark.parametrize(("most", "fault"), [(1, False), (2, True), (3, True), (4, True), (4096, True)])
def test_calls_of_few_rows_and_of_many(tmp_path: Path, most: int, fault: bool):
    """Where every call has one row, there are no others."""
    file = tmp_path / "model.onnx"
    for model, expected in ((plus(1e-3), fault), (FINE["digits on an edge"], False)):
        file.write_bytes(model.SerializeToString())
        assert bool(find(file, OrtNetwork(file, 1), {}, ["y"], most).fault) is expected


def test_a_kernel_that_multiplies_other_rows_by_zero_is_warned_of(tmp_path: Path):
    """Interpolation along an axis, as torch exports it: right for all finite numbers."""
    double = graph(
        [node("Resize", ["x", "", "scales"], ["y"], name="double", mode="linear")],
        (("x", FLOAT, ["n", 1, 4]),), (("y", FLOAT, ["n", 1, 8]),), scales=SCALES,
    )  # fmt: skip
    findings = found(tmp_path, double)
    assert (findings.fault, findings.doubt) == (
        "", "a row becomes NaN where another row of its call is not finite, from node Resize 'double'"
    )  # fmt: skip


def test_such_a_kernel_does_not_hide_what_else_is_wrong(tmp_path: Path):
    shape: Values = (("x", FLOAT, ["n", 1, 4]),)
    double = node("Resize", ["x", "", "scales"], ["d"], name="double", mode="linear")
    counted = [*COUNT, node("Mul", ["d", "kf"], ["y"], name="times")]
    model = graph([double, *counted], shape, (("y", FLOAT, ["n", 1, 8]),), scales=SCALES, zero=ZERO)
    assert found(tmp_path, model).fault.endswith("from node Mul 'times'")


@pytest.mark.parametrize("location", ["w.bin", "deep/w.bin"])
def test_the_node_is_named_where_weights_lie_in_other_files(tmp_path: Path, location: str):
    model = plus(1.0)
    (weight,) = (each for each in model.graph.initializer if each.name == "w")
    weight.CopyFrom(networks.elsewhere("w", np.ones(1, np.float32), location))
    (tmp_path / location).parent.mkdir(exist_ok=True)
    (tmp_path / location).write_bytes(np.ones(1, np.float32).tobytes())
    assert found(tmp_path, model).fault.endswith("from node ReduceMean 'mean'")


@pytest.mark.parametrize("weight", [1e-2, 1e-3, 1e-5, 1e-12])
@pytest.mark.parametrize("width", [1, 3, 64])
def test_however_weak_a_mean_is(tmp_path: Path, weight: float, width: int):
    model = plus(weight)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[1].dim_value = width
    assert found(tmp_path, model).fault.startswith(ALONE)


class Shaky:
    """A backend that gives each row another rounding with each call, as another server may."""

    invariant = False
    kind = "shaky"

    def __init__(self, backend: Backend, share: float) -> None:
        self._backend, self._share, self._rng = backend, share, np.random.default_rng(0)
        self.inputs, self.outputs, self.sizes, self.close = (
            backend.inputs, backend.outputs, backend.sizes, backend.close
        )  # fmt: skip

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        results = self._backend.run(feeds, outputs)
        return [
            (y.astype(np.float64) * (1 + self._share * self._rng.standard_normal(y.shape))).astype(y.dtype)
            for y in results
        ]


@pytest.mark.parametrize(("weight", "fault"), [(None, False), (1e-3, True), (1.0, True)])
def test_elsewhere_rounding_is_allowed_and_weak_means_are_not(tmp_path: Path, weight: float | None, fault: bool):
    file = tmp_path / "model.onnx"
    model = FINE["saturated logarithms"] if weight is None else plus(weight)
    file.write_bytes(model.SerializeToString())
    backend = Shaky(OrtNetwork(file, 1), 1e-5)
    assert bool(find(file, backend, {}, ["y"], 256).fault) is fault


@pytest.mark.parametrize("name", ["a weak mean", "a mean times nothing", "the row seven before"])
def test_on_a_device_the_graph_is_tried_on_the_cpu_too(tmp_path: Path, name: str):
    """There a row's bits can be compared, and indices made of NaN are noticed."""
    model, fault = MIXING[name]
    assert bound(tmp_path, model).fault == f"{ALONE}the other rows of its call, from node {fault}"


@pytest.mark.parametrize("name", ["an index from a time", "a single class", "half precision"])
def test_what_is_fine_is_fine_on_a_device(tmp_path: Path, name: str):
    findings = bound(tmp_path, FINE[name])
    assert (findings.fault, findings.doubt) == ("", "")


def bound(folder: Path, model: onnx.ModelProto) -> Findings:
    """What is found of a graph that runs on buffers, as on a GPU."""
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    backend = BoundNetwork(
        file, lambda: open_session(file, 1, ["CPUExecutionProvider"]), kind="bound", device="cpu", sizes=(2, 4, 8)
    )
    findings = find(file, backend, {}, ["y"], 8)
    backend.close()
    return findings


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, affine=False, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Drop(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.p, training=self.training)


class Attention(nn.Module):
    """Within a row."""

    def forward(self, x: Tensor) -> Tensor:
        h = x[:, None, :, None]
        return nn.functional.scaled_dot_product_attention(h, h, h)[:, 0, :, 0]


@pytest.mark.parametrize(
    ("module", "training", "expected"),
    [
        (Mean(), False, "output 'output': expected a row that depends on itself alone, got one that changes with "),
        (Norm(), True, "output 'output': expected a row that depends on itself alone, got one that changes with "),
        (
            Drop(1e-9),
            True,
            "expected equal answers to equal inputs, got noise from node aten.dropout.default 'dropout'",
        ),
        (Drop(0.5), False, ""),
        (Attention(), False, ""),
        (nn.Linear(4, 4), False, ""),
    ],
)
def test_programs_of_torch(tmp_path: Path, module: nn.Module, training: bool, expected: str):
    program = torch.export.export(
        module.train(training), (torch.randn(3, 4),), dynamic_shapes=({0: torch.export.Dim("n", min=2, max=512)},)
    )
    torch.export.save(program, tmp_path / "model.pt2")
    backend = TorchNetwork.load(tmp_path / "model.pt2")
    text = find(tmp_path / "model.pt2", backend, {}, ["output"], 256).fault
    assert text.startswith(expected)
    assert bool(text) is bool(expected)


HALF, BFLOAT16, BOOL = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.BOOL
SCALAR: Values = (*X, ("t", FLOAT, []))
CONTEXT: Values = (*X, ("context", FLOAT, [3, 4]))
WORDS: Values = (*X, ("words", FLOAT, ["n", "l"]), ("there", BOOL, ["n", "l"]))
SPOKEN = [
    node("Where", ["there", "words", "nothing"], ["said"]),
    node("ReduceSum", ["said", "one"], ["sum"], keepdims=1),
    node("Add", ["x", "sum"], ["y"]),
]
ONES: Values = (("x", FLOAT, [1, 4]), ("t", FLOAT, [1]))
OF_ONE: Values = (("y", FLOAT, [1, 4]),)
MEAN_OF_X = node("ReduceMean", ["x", "zero"], ["m"], name="mean", keepdims=1)
ZEROTH, FIRST = np.array([0], np.int64), np.array([1], np.int64)


@pytest.mark.parametrize(
    "model",
    [
        graph([node("Mul", ["x", "t"], ["y"])], SCALAR),
        graph([node("ReduceMean", ["context", "zero"], ["m"]), node("Add", ["x", "m"], ["y"])], CONTEXT, zero=ZEROTH),
        graph(SPOKEN, WORDS, nothing=0, one=FIRST),
        graph([node("Exp", ["x"], ["y"])], (("x", HALF, ["n", 64]),), (("y", HALF, ["n", 64]),)),
        graph([MEAN_OF_X, node("Add", ["m", "t"], ["y"])], ONES, OF_ONE, zero=ZEROTH),
    ],
    ids=["a scalar time", "a context for all", "free lengths and a mask", "float16", "one row"],
)
def test_what_rows_share_and_lengths_that_vary_are_fine(tmp_path: Path, model: onnx.ModelProto):
    findings = found(tmp_path, model)
    assert (findings.fault, findings.doubt) == ("", "")
    assert findings.made_up is not None


@pytest.mark.parametrize(
    "model",
    [
        graph([MEAN_OF_X, node("Mul", ["m", "t"], ["mt"]), node("Add", ["x", "mt"], ["y"])], SCALAR, zero=ZEROTH),
        graph(
            [*SPOKEN[:2], node("ReduceMean", ["sum", "zero"], ["m"], name="mean", keepdims=1),
             node("Add", ["x", "m"], ["y"])], WORDS, nothing=0, one=FIRST, zero=ZEROTH,
        ),
        graph(
            [MEAN_OF_X, node("Sub", ["x", "m"], ["y"])], (("x", BFLOAT16, ["n", 4]),), (("y", BFLOAT16, ["n", 4]),),
            zero=ZEROTH,
        ),
    ],
    ids=["a scalar time", "free lengths and a mask", "bfloat16"],
)  # fmt: skip
def test_rows_are_mixed_beside_what_they_share(tmp_path: Path, model: onnx.ModelProto):
    assert found(tmp_path, model).fault == f"{ALONE}the other rows of its call, from node ReduceMean 'mean'"


def test_noise_of_one_row(tmp_path: Path):
    noisy = [node("RandomNormalLike", ["x"], ["r"], name="noise"), node("Add", ["x", "r"], ["y"])]
    fault = found(tmp_path, graph([*noisy], ONES, OF_ONE)).fault
    assert fault == "expected equal answers to equal inputs, got noise from node RandomNormalLike 'noise'"
