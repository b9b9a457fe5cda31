"""The ONNX Runtime backend on the CPU, on the demo's own models and on graphs that ask for too much."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from serving.backends import InputError, LoadError, OutOfMemoryError
from serving.backends.ort import OrtNetwork
from serving.backends.session import open_session
from serving.backends.sizes import dense, ladder
from tests import networks

MODELS = Path(__file__).parents[3] / "deploy" / "models"
CLASSIFIER, DIGITS = (MODELS / name / "1" / "model.onnx" for name in ("classifier", "digits"))


def square(folder: Path) -> Path:
    """sum_j x_i x_j over the batch: the square of the batch in between."""
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["across"]),
            helper.make_node("MatMul", ["x", "across"], ["square"]),
            helper.make_node("ReduceSum", ["square", "last"], ["y"], keepdims=0),
        ],
        "square",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor("last", TensorProto.INT64, [1], [1])],
    )
    return networks.write_graph(folder, graph)


def test_a_label_out_of_bounds_is_the_inputs_fault():
    network = OrtNetwork(CLASSIFIER, threads=1)
    images = np.zeros((2, 1, 28, 28), np.float32)
    with pytest.raises(InputError, match=r"^an index out of bounds in a GatherElements node$"):
        network.run({"x": images, "label": np.array([99, 1])}, ["reward"])
    (reward,) = network.run({"x": images, "label": np.array([7, 1])}, ["reward"])
    assert reward.astype(float).max() < 0


def test_a_call_too_large_for_the_memory_leaves_the_network_usable(tmp_path: Path):
    network = OrtNetwork(square(tmp_path), threads=1)
    with pytest.raises(OutOfMemoryError, match=r"^[^\n]*Failed to allocate memory for requested buffer of size 4398"):
        network.run({"x": np.ones((2**20, 1), np.float32)}, ["y"])
    (y,) = network.run({"x": np.ones((5, 1), np.float32)}, ["y"])
    assert y.tolist() == [5.0] * 5


@pytest.mark.parametrize("op", ["Softplus", "Mish", "Selu", "Log"])
def test_the_same_rows_have_the_same_bits_whenever_threads_get_to_them(tmp_path: Path, op: str):
    """Vectorised code rounds what it leaves over at the end of a thread's share otherwise, so shares must be fixed."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"])],
        op,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1000])],
    )
    network = OrtNetwork(networks.write_graph(tmp_path, graph), threads=2)
    x = np.abs(np.random.default_rng(0).standard_normal((64, 1000))).astype(np.float32)
    assert len({network.run({"x": x}, ["y"])[0].tobytes() for _ in range(100)}) == 1


def test_a_provider_that_is_not_there_is_not_replaced_by_the_cpu():
    with pytest.warns(UserWarning, match="not in available provider names"), pytest.raises(LoadError) as caught:
        open_session(CLASSIFIER, 1, ["MIGraphXExecutionProvider", "CPUExecutionProvider"])
    expected = "expected to run on the MIGraphXExecutionProvider, ONNX Runtime fell back to the CPUExecutionProvider"
    assert str(caught.value) == f"{CLASSIFIER}: {expected}"


def test_sizes_of_calls_ascend_to_the_most_and_waste_little():
    for sizes, waste in ((dense, 1 / 8), (ladder, 1 / 3)):
        for most in (1, 2, 3, 5, 19, 32, 33, 64, 256, 1000, 4096):
            found = sizes(most)
            assert list(found) == sorted({*found})
            assert found[-1] == most
            assert found[0] == min(most, 2)  # a row alone is rounded otherwise
            assert max((b - a - 1) / b for a, b in zip((1, *found), found, strict=False)) <= waste
    assert dense(36) == (*range(2, 17), *range(18, 33, 2), 36)
    assert ladder(48) == (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)


def test_a_rows_bits_are_the_same_in_calls_of_every_size():
    network = OrtNetwork(DIGITS, threads=1)
    assert network.invariant
    rng = np.random.default_rng(5)
    x = rng.standard_normal((32, 1, 28, 28), np.float32)
    t = rng.uniform(0.05, 0.95, 32).astype(np.float32)
    (whole,) = network.run({"x": x, "t": t}, ["v"])
    for size in network.sizes(32)[::3]:
        (part,) = network.run({"x": x[-size:], "t": t[-size:]}, ["v"])
        assert part.tobytes() == whole[-size:].tobytes(), size


def test_a_closed_network_runs_no_more():
    network = OrtNetwork(CLASSIFIER, threads=1)
    network.close()
    with pytest.raises(AttributeError):
        network.run({}, ["reward"])
