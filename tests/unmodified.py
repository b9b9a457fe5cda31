"""An unmodified Triton client, as tests use it: arrays to its inputs, its results to arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferResult
from tritonclient.utils import np_to_triton_dtype


@dataclass(frozen=True)
class Answer:
    """Output arrays and response parameters by name."""

    outputs: dict[str, NDArray[Any]]
    parameters: dict[str, Any]


def tensors(inputs: Mapping[str, NDArray[Any]]) -> list[InferInput]:
    """Arrays by name as the inputs of a request."""
    made = []
    for name, value in inputs.items():
        tensor = InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(value)
        made.append(tensor)
    return made


def inferred(result: InferResult) -> Answer:
    """What a result holds."""
    response = result.get_response()
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.parameters.items()
    }
    return Answer({each.name: result.as_numpy(each.name) for each in response.outputs}, parameters)
