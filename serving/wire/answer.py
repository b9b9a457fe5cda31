"""The answer of a finished request."""

from dataclasses import dataclass

from serving.wire.tensors import Array, Parameter, held


@dataclass(frozen=True)
class Answer:
    """Output tensors and response parameters by name; `steering` names the method that drew samples, for the metrics,
    "" where none were drawn."""

    outputs: dict[str, Array]
    parameters: dict[str, Parameter]
    steering: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(map(held, self.outputs.values()))
