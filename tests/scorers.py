"""Scoring networks as other people have them: sums of weighted numbers of an image, of any type and shape."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests import networks

EVENT = (3, 4, 6)
"""Channels, height and width."""


def weights(shape: Sequence[int]) -> NDArray[np.float32]:
    """All different, so that every transposition shows."""
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def write(
    root: Path,
    name: str,
    shape: Sequence[int] = EVENT,
    *,
    dtype: int = TensorProto.FLOAT,
    gives: int = TensorProto.FLOAT,
    column: bool = False,
    sample: str = "image",
    output: str = "score",
    above: float | None = None,
    rows: str | int = "n",
    card: dict[str, Any] | None = None,
) -> Path:
    """A folder with sum(weights * image), or whether that is above a number.

    Args:
        shape: of one image as the network takes it; `dtype`: its type.
        gives: the score's type; `column`: its shape is [n, 1].
        rows: the first axis of the image and the score.
    """
    axes = list(range(1, len(shape) + 1))
    nodes = [
        helper.make_node("Cast", [sample], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axes"], ["sum"], keepdims=0),
    ]
    last = "sum"
    if above is not None:
        nodes.append(helper.make_node("Greater", [last, "above"], ["found"]))
        last = "found"
    nodes.append(helper.make_node("Cast", [last], ["number"], to=gives))
    nodes.append(helper.make_node("Reshape", ["number", "column"], [output]))
    graph = helper.make_graph(
        nodes,
        "scorer",
        [helper.make_tensor_value_info(sample, dtype, [rows, *shape])],
        [helper.make_tensor_value_info(output, gives, [rows, 1] if column else [rows])],
        [
            numpy_helper.from_array(weights(shape), "weights"),
            numpy_helper.from_array(np.array(axes), "axes"),
            numpy_helper.from_array(np.array([-1, 1] if column else [-1]), "column"),
            numpy_helper.from_array(np.array(above or 0, np.float32), "above"),
        ],
    )
    networks.write_graph(root / name, graph)
    if card is not None:
        (root / name / "card.yaml").write_text(yaml.safe_dump({"name": name} | card))
    return root / name
