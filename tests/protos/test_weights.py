"""Weights in files of their own belong to the graph: they are found wherever it keeps them, and count in its digest."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from protos import weights
from protos.digest import graph_sha256, sha256
from tests import networks

ONES = np.ones((2, 2), np.float32)


def graph(folder: Path, *locations: str, inside: str | None = None) -> Path:
    """A graph whose weights lie at these places, or, `inside`, a branch's constant."""
    stored = [networks.elsewhere(f"w{k}", ONES, location) for k, location in enumerate(locations)]
    if inside is not None:
        value = networks.elsewhere("c", ONES, inside)
        branch = helper.make_graph(
            [helper.make_node("Constant", [], ["b"], value=value)], "branch", [],
            [helper.make_tensor_value_info("b", TensorProto.FLOAT, [2, 2])],
        )  # fmt: skip
        node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    else:
        node = helper.make_node("Sum", [each.name for each in stored], ["y"])
    whole = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])], stored)
    file = folder / "1" / "model.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(helper.make_model(whole).SerializeToString())
    return file


def put(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_a_graph_in_one_file_has_the_digest_of_the_file(small_models: Path):
    file = small_models / "rings" / "1" / "model.onnx"
    assert weights.files(file) == (file,)
    assert graph_sha256(file) == sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_digest_is_that_of_all_files_in_the_order_of_their_names(tmp_path: Path):
    file = graph(tmp_path, "deep/er/w.bin", "a.bin", "./deep/er/w.bin")
    a, w = put(file.parent / "a.bin", b"a"), put(file.parent / "deep" / "er" / "w.bin", b"w")
    assert {*weights.files(file)} == {file, a, w}
    whole = b"".join(hashlib.sha256(each.read_bytes()).digest() for each in weights.files(file))
    assert graph_sha256(file) == hashlib.sha256(whole).hexdigest()


@pytest.mark.parametrize("location", ["w.bin", "deep/w.bin", "deep/../w.bin"])
@pytest.mark.parametrize("branch", [False, True])
def test_another_byte_of_the_weights_is_another_graph(tmp_path: Path, location: str, branch: bool):
    file = graph(tmp_path, inside=location) if branch else graph(tmp_path, location)
    (file.parent / "deep").mkdir()
    stored = put(file.parent / location, ONES.tobytes())
    before = graph_sha256(file)
    put(file.parent / "notes.txt", b"no weights")
    assert graph_sha256(file) == before
    put(stored, (2 * ONES).tobytes())
    assert graph_sha256(file) != before
    put(stored, ONES.tobytes())
    assert graph_sha256(file) == before


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("w.bin", "expected a file in the graph's folder, got no such file"),
        ("deep", "expected a file in the graph's folder, got something that is no file"),
        ("x" * 300, "expected a file in the graph's folder, got: File name too long"),
        ("../w.bin", "expected a path inside the graph's folder, got one that is not"),
        ("deep/../../w.bin", "expected a path inside the graph's folder, got one that is not"),
        ("../../etc/passwd", "expected a path inside the graph's folder, got one that is not"),
        ("/etc/passwd", "expected a path inside the graph's folder, got one that is not"),
        ("", "expected a path inside the graph's folder, got one that is not"),
    ],
)
def test_weights_that_cannot_be_found_are_named_in_one_line(tmp_path: Path, location: str, expected: str):
    file = graph(tmp_path, location)
    (file.parent / "deep").mkdir()
    put(tmp_path / "w.bin", ONES.tobytes())
    with pytest.raises(weights.WeightsError) as caught:
        weights.files(file)
    assert str(caught.value).startswith(f"{file}: weights '{location[:40]}")
    assert str(caught.value).endswith(expected)
    assert "\n" not in str(caught.value)


def test_a_link_stands_for_the_file_it_leads_to(tmp_path: Path):
    """As in a cache of downloads, or a mounted volume."""
    file = graph(tmp_path, "w.bin")
    put(tmp_path / "blobs" / "w", b"w")
    (file.parent / "w.bin").symlink_to(tmp_path / "blobs" / "w")
    before = graph_sha256(file)
    put(tmp_path / "blobs" / "w", b"v")
    assert graph_sha256(file) != before


def test_a_file_that_is_no_graph(tmp_path: Path):
    file = put(tmp_path / "model.onnx", b"not a graph")
    with pytest.raises(weights.WeightsError, match="expected a complete ONNX graph, got: "):
        weights.files(file)


def test_a_graph_that_is_written_again_is_read_again(tmp_path: Path):
    file = graph(tmp_path, "a.bin")
    put(file.parent / "a.bin", b"a")
    put(file.parent / "b.bin", b"a")
    assert [each.name for each in weights.files(file)] == ["model.onnx", "a.bin"]
    graph(tmp_path, "b.bin")
    assert [each.name for each in weights.files(file)] == ["model.onnx", "b.bin"]


def test_a_program_of_torch_is_one_file(tmp_path: Path):
    assert weights.files(tmp_path / "model.pt2") == (tmp_path / "model.pt2",)
