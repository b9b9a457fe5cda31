"""Calls on bound buffers, as on a CUDA device, here on the CPU: the same copies, bindings and sizes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.backends import Array, Backend, InputError, LoadError
from serving.backends.bound import BoundNetwork
from serving.backends.ort import OrtNetwork
from serving.backends.session import open_session
from serving.backends.sizes import ladder
from tests import networks
from tests.serving.backends.test_ort import square


def bound(file: Path, sizes: tuple[int, ...] = ladder(16)) -> BoundNetwork:
    session = lambda: open_session(file, 1, ["CPUExecutionProvider"])  # noqa: E731
    return BoundNetwork(file, session, kind="bound", device="cpu", sizes=sizes)


def rows(n: int, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((n, 1, 4, 4)).astype(np.float32),
        "t": rng.uniform(0.1, 0.9, n).astype(np.float32),
        "label": rng.integers(0, networks.LABELS, n),
    }


def output(network: Backend, feeds: dict[str, Array]) -> NDArray[np.float32]:
    """What a network of stripes gives for them."""
    (found,) = network.run(feeds, ["output"])
    assert found.dtype == np.float32
    return cast(NDArray[np.float32], found)


@pytest.fixture
def file(small_models: Path) -> Path:
    return small_models / "stripes" / "1" / "model.onnx"


def test_every_number_of_rows_gives_what_the_plain_session_gives(file: Path):
    network, plain = bound(file), OrtNetwork(file, 1)
    assert (network.inputs, network.outputs) == (plain.inputs, plain.outputs)
    assert network.prepared == network.sizes(16) == network.sizes(300) == (2, 3, 4, 6, 8, 12, 16)
    assert network.sizes(5) == (2, 3, 4)
    for n in (*range(1, 17), 23, 40):  # fewer than a size, and more than the largest
        found, expected = (output(each, rows(n, seed=n)) for each in (network, plain))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    network.close()


def test_two_inputs_give_two_outputs_and_neither_is_lost(file: Path):
    network, plain = bound(file), OrtNetwork(file, 1)
    one, other = rows(6, seed=1), rows(6, seed=2)
    (first,) = network.run(one, ["output"])
    (second,) = network.run(other, ["output"])
    (again,) = network.run(one, ["output"])
    assert first.tobytes() == again.tobytes() == plain.run(one, ["output"])[0].tobytes()
    assert second.tobytes() == plain.run(other, ["output"])[0].tobytes()
    assert not np.allclose(first, second)
    network.close()


def test_rows_of_an_earlier_call_leave_no_trace(file: Path):
    network = bound(file)
    (clean,) = network.run(rows(5, seed=3), ["output"])  # in a call of 6
    dirty = rows(6, seed=4)
    dirty["x"][:] = np.nan
    assert np.isnan(network.run(dirty, ["output"])[0]).all()
    (after,) = network.run(rows(5, seed=3), ["output"])
    assert clean.tobytes() == after.tobytes()
    network.close()


def test_inputs_are_neither_cast_nor_broadcast(file: Path):
    network, feeds = bound(file), rows(4, seed=5)
    for name, value, came in (
        ("x", feeds["x"].astype(np.float64), r"float64 \[4, 1, 4, 4\]"),
        ("x", feeds["x"][:, :, :1], r"float32 \[4, 1, 1, 4\]"),
        ("t", feeds["t"][:1], r"float32 \[1\]"),
    ):
        with pytest.raises(InputError, match=rf"^input '{name}': expected float32 \[4.*\], got {came}$"):
            network.run({**feeds, name: value}, ["output"])
    with pytest.raises(InputError, match=r"^expected inputs label, t, x, got t, x$"):
        network.run({"x": feeds["x"], "t": feeds["t"]}, ["output"])
    network.close()


def test_a_bad_row_is_the_inputs_fault(file: Path):
    network, feeds = bound(file), rows(4, seed=6)
    with pytest.raises(InputError, match=r"^an index out of bounds in a Gather node$"):
        network.run({**feeds, "label": np.full(4, 99)}, ["output"])
    assert np.isfinite(network.run(feeds, ["output"])[0]).all()
    network.close()


def test_many_threads_share_its_one(file: Path):
    network, plain = bound(file), OrtNetwork(file, 1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: network.run(rows(6, seed), ["output"])[0], range(40)))
    for seed, output in enumerate(found):
        assert output.tobytes() == plain.run(rows(6, seed), ["output"])[0].tobytes()
    assert sum(each.name.startswith("device") for each in threading.enumerate()) == 1
    network.close()
    assert not any(each.name.startswith("device") for each in threading.enumerate())
    network.close()


def test_sizes_that_do_not_fit_into_memory_are_left_out(tmp_path: Path):
    network = bound(square(tmp_path / "square"), sizes=(2, 4, 2**20))
    assert network.prepared == (2, 4)
    (y,) = network.run({"x": np.ones((4, 1), np.float32)}, ["y"])
    assert y.tolist() == [4.0] * 4
    network.close()
    with pytest.raises(LoadError, match=r"model\.onnx: expected memory for calls of 1048576 rows, got too little$"):
        bound(tmp_path / "square" / "1" / "model.onnx", sizes=(2**20,))


def test_rows_of_varying_length_are_refused(tmp_path: Path):
    file = networks.write_scale(tmp_path, {"x": (1, ["n", "width"])}, ("output", ["n", "width"]))
    with pytest.raises(LoadError, match=r"x: expected rows of a fixed shape on this provider, got \[\?\]"):
        bound(file)
    assert not any(each.name.startswith("device") for each in threading.enumerate())
