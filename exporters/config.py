"""Triton's `config.pbtxt` of an ONNX graph, so that the same folder also loads in Triton."""

import onnx
from google.protobuf import text_format
from onnx import TensorProto, ValueInfoProto
from tritonclient.grpc import model_config_pb2

HEADER = "# The batch is an ordinary first axis (max_batch_size 0), so that per-row scalars keep the shape [B].\n"
TYPES: dict[int, str] = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.BFLOAT16: "TYPE_BF16",
    TensorProto.DOUBLE: "TYPE_FP64",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT8: "TYPE_INT8",
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.BOOL: "TYPE_BOOL",
}


def triton_config(name: str, graph: onnx.GraphProto) -> str:
    """The configuration as text; dimensions the graph leaves open are -1."""
    config = model_config_pb2.ModelConfig(name=name, backend="onnxruntime", max_batch_size=0)
    for values, fields in ((graph.input, config.input), (graph.output, config.output)):
        for value in values:
            fields.add(name=value.name, data_type=data_type(value), dims=dims(value))
    return HEADER + text_format.MessageToString(config)


def data_type(value: ValueInfoProto) -> int:
    """Triton's number of a tensor's type; `ValueError` for one it has no name for here."""
    kind: int = value.type.tensor_type.elem_type
    if kind not in TYPES:
        expected = ", ".join(TensorProto.DataType.Name(known) for known in TYPES)
        raise ValueError(f"{value.name}: expected a type of {expected}, got {TensorProto.DataType.Name(kind)}")
    return model_config_pb2.DataType.Value(TYPES[kind])


def dims(value: ValueInfoProto) -> list[int]:
    """A tensor's shape, -1 where it is open."""
    return [axis.dim_value if axis.HasField("dim_value") else -1 for axis in value.type.tensor_type.shape.dim]
