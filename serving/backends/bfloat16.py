"""Graphs in bfloat16, computed in float32: neither numpy nor ONNX Runtime's CPU kernels have the type.

Every bfloat16 number is a float32 number, so weights stay what they are; what a graph computes is rounded less often.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import onnx
from onnx import AttributeProto, TensorProto, TypeProto, numpy_helper

Result = TypeVar("Result")
_TYPES = frozenset({"to", "dtype", "output_dtype", "stash_type", "softmax_precision"})
"""Attributes whose number is a type."""


def has_bfloat16(file: Path) -> bool:
    """Whether a graph has anything in bfloat16; False where it cannot be read."""
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception:  # what is wrong with it, ONNX Runtime says better
        return False
    return any(_of_bfloat16(each) for each in _parts(model))


def ends(file: Path) -> frozenset[str]:
    """The graph's inputs and outputs in bfloat16, by name."""
    graph = onnx.load(file, load_external_data=False).graph
    both = (*graph.input, *graph.output)
    return frozenset(each.name for each in both if any(map(_of_bfloat16, _of_type(each.type))))


def with_float32(file: Path, use: Callable[[Path], Result]) -> Result:
    """What `use` makes of a copy of the graph with float32 in place of bfloat16; the copy is gone afterwards."""
    model = onnx.load(file)
    for part in list(_parts(model)):
        _widen(part)
    with tempfile.TemporaryDirectory(prefix="tiltserve-") as folder:
        copy = Path(folder) / file.name
        # weights in a file of their own: a graph of more than 2 GiB cannot hold them
        onnx.save(model, copy, save_as_external_data=True, location="weights", size_threshold=1024)
        return use(copy)


Part = TensorProto | AttributeProto | TypeProto.Tensor


def _parts(model: onnx.ModelProto) -> Iterator[Part]:
    """All that may name a type of numbers: constants, attributes, types of inputs, outputs and values between."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)
        for value in function.value_info:
            yield from _of_type(value.type)


def _of_graph(graph: onnx.GraphProto) -> Iterator[Part]:
    yield from graph.initializer
    for values in (graph.input, graph.output, graph.value_info):
        for value in values:
            yield from _of_type(value.type)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: "object") -> Iterator[Part]:
    for node in nodes:  # type: ignore[attr-defined]
        for attribute in node.attribute:
            yield attribute
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _of_graph(graph)


def _of_type(kind: TypeProto) -> Iterator[Part]:
    if kind.HasField("tensor_type"):
        yield kind.tensor_type
    elif kind.HasField("sequence_type"):
        yield from _of_type(kind.sequence_type.elem_type)
    elif kind.HasField("optional_type"):
        yield from _of_type(kind.optional_type.elem_type)


def _of_bfloat16(part: Part) -> bool:
    if isinstance(part, TensorProto):
        return part.data_type == TensorProto.BFLOAT16
    if isinstance(part, AttributeProto):
        return part.name in _TYPES and part.type == AttributeProto.INT and part.i == TensorProto.BFLOAT16
    return bool(part.elem_type == TensorProto.BFLOAT16)


def _widen(part: Part) -> None:
    if not _of_bfloat16(part):
        return
    if isinstance(part, TensorProto):
        wide = numpy_helper.from_array(numpy_helper.to_array(part).astype("float32"), part.name)
        part.CopyFrom(wide)
    elif isinstance(part, AttributeProto):
        part.i = TensorProto.FLOAT
    else:
        part.elem_type = TensorProto.FLOAT
