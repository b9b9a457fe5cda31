"""Triton's Python backend: the model's code, which the benchmark copies into a model repository."""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb

from benchmarks._peers.sampling import Job
from benchmarks._peers.settings import Settings


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        text = json.loads(args["model_config"])["parameters"]["settings"]["string_value"]
        self.sampler = Settings(**json.loads(text)).sampler()

    def execute(self, requests: list[Any]) -> list[Any]:
        waited = [request for request in requests if not request.is_cancelled()]
        answers = dict(zip(map(id, waited), self.sampler([job(each) for each in waited]), strict=True))
        return [response(answers.get(id(each))) for each in requests]


def job(request: Any) -> Job:
    """Inputs have a row for each sample, since Triton bounds a batch by rows."""
    fields = {name: pb.get_input_tensor_by_name(request, name).as_numpy() for name in ("steps", "seed", "deadline_us")}
    return Job.parse({"samples": len(fields["steps"]), **{name: value[0, 0] for name, value in fields.items()}})


def response(samples: np.ndarray | None) -> Any:
    if samples is None:
        return pb.InferenceResponse(error=pb.TritonError("the deadline has passed", pb.TritonError.CANCELLED))
    return pb.InferenceResponse([pb.Tensor("samples", np.ascontiguousarray(samples))])
