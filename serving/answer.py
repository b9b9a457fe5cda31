"""What a finished request sends back."""

from dataclasses import dataclass

from serving.backends import Array
from serving.kserve import Parameter


@dataclass(frozen=True)
class Answer:
    """Output tensors and response parameters by name; `mean_ess` is for the metrics, None without steering."""

    outputs: dict[str, Array]
    parameters: dict[str, Parameter]
    mean_ess: float | None = None
